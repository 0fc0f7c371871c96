"""The exact arguments of `trtllm-build` for a plan, each checked against the real flag table before it is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from builder.plan import BuildFlags, BuildPlan
from profiles import build_flags
from trtllm_kit.errors import SpecError


def trtllm_build_argv(plan: BuildPlan, *, checkpoint: str, engine: str, timing_cache: str) -> list[str]:
    """What follows `trtllm-build` on its command line; paths are as the process that runs it sees them.

    Every flag of the plan is written out, in-flight batching and paged KV among them, because upstream's defaults
    differ between versions. Raises SpecError when the plan's TensorRT-LLM does not know a flag or its value.
    """
    argv = ["--checkpoint_dir", checkpoint, "--output_dir", engine, "--output_timing_cache", timing_cache]
    for name, value in _values(plan.build):
        if not build_flags.flags()[name].exists_in(plan.trtllm_version):
            if value == "disable":  # off by not being there
                continue
            raise SpecError(
                f"TensorRT-LLM {plan.trtllm_version} has no {name}",
                expected=f"{name} disable",
                fix=f"remove build.{name}, or set a trtllm_version that has it",
            )
        argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    build_flags.check_argv(argv, plan.trtllm_version)
    return argv


def _values(flags: BuildFlags) -> Iterator[tuple[str, object]]:
    """The flags to write: unset ones and false switches are said by leaving them out."""
    for item in fields(flags):
        value = getattr(flags, item.name)
        if value is not None and value is not False:
            yield item.name, value
