"""The `tensorrt` runtime: TRT-LLM checkpoint → TensorRT engine, by `trtllm-build` here or in the pinned container."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from builder.compile.trtllm_argv import trtllm_build_argv
from builder.compile.trtllm_engine import check_engine
from builder.compile.trtllm_errors import explain
from builder.compile.trtllm_run import run
from builder.compile.trtllm_tool import find_tool
from builder.plan import BuildPlan
from builder.quantize.schemes import Layout
from profiles.versions import DEFAULT, ENGINE_PATH_ENDS, find
from trtllm_kit.console import Talk
from trtllm_kit.errors import SpecError

LAYOUT: Layout = "trtllm"


def check(plan: BuildPlan) -> None:
    """SpecError for a version without engines or flags it lacks; HostError when nothing here can build."""
    if not find(plan.trtllm_version).has_engine_path:
        raise SpecError(
            f"TensorRT-LLM {plan.trtllm_version} builds no engines",
            expected=f"a version before {ENGINE_PATH_ENDS}",
            fix=f"set trtllm_version to {DEFAULT}, or runtime to pytorch",
        )
    _argv(plan)
    find_tool(plan)


def inputs(plan: BuildPlan) -> dict[str, Any]:
    """An engine depends on the GPU, on TensorRT-LLM's version, on every flag and on what is pinned."""
    argv = _argv(plan)
    return {"sku": plan.sku.id, "trtllm_version": plan.trtllm_version, "trtllm_build": argv, **plan.pins.known()}


def versions(plan: BuildPlan) -> dict[str, str]:
    """What the engine is tied to."""
    release = find(plan.trtllm_version)
    found = {
        "tensorrt_llm": release.trtllm,
        "tensorrt": release.tensorrt,
        "cuda": release.cuda,
        "triton_image": release.triton_image,
        **plan.pins.known(),
    }
    return {name: version for name, version in found.items() if version}


def facts(compiled: Path) -> dict[str, Any]:
    """Nothing that the plan does not say."""
    return {}


def compile(quantized: Path, plan: BuildPlan, out: Path, talk: Talk) -> None:  # noqa: A001 (the Protocol's name)
    """Fill `out` with `config.json` and `rank{r}.engine`.

    The build's log lies beside `out` and stays there, also when the build fails. The timing cache is dropped: an engine
    depends on its inputs alone.
    """
    tool, log, work = find_tool(plan), log_path(out), out / "work"
    work.mkdir()
    argv = tool.command(plan, quantized.absolute(), out.absolute(), work.absolute())
    talk.say(f"  log: {log}")
    exit_code = run(
        argv, folder=work, log=log, ranks=plan.world_size, version=plan.trtllm_version, stop=tool.stop, talk=talk
    )
    if exit_code != 0:
        raise explain(log, exit_code)
    shutil.rmtree(work)
    check_engine(out, plan)


def log_path(out: Path) -> Path:
    """Where the log of the build into `out` lies: beside it, named after it and not after a temporary name."""
    return out.parent / f"{out.name.lstrip('.').partition('~')[0]}.build.log"


def _argv(plan: BuildPlan) -> list[str]:
    return trtllm_build_argv(plan, checkpoint="CHECKPOINT_DIR", engine="ENGINE_DIR", timing_cache="TIMING_CACHE")
