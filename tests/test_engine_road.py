"""The road of an engine through the front door, as far as a machine without a GPU goes.

`trtllm-build` is the stand-in of tests/standins: it parses upstream's flags and writes files that say that they are no
engine. Everything around it is real.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import yaml

STANDIN = shlex.join([sys.executable, str(Path(__file__).parent / "standins" / "trtllm-build")])
ENGINE = ("build", "model", "--sku", "h100_sxm", "--runtime", "tensorrt", "--set", "target.tp_size=2")


@pytest.fixture
def engine(kit, tiny_llama: Path):
    """A store with one artifact of the tensorrt runtime for two GPUs."""
    kit.ok("init", "--model", str(tiny_llama))
    kit.ok(*ENGINE, TRTLLM_BUILD_COMMAND=STANDIN)
    return kit


def test_an_engine_artifact_is_for_its_sku_version_and_world_size(engine) -> None:
    shown = engine.ok("artifact", "show").json
    assert shown["target"] == {"sku": "h100_sxm", "sm": 90, "tp_size": 2, "pp_size": 1, "world_size": 2}
    assert shown["versions"]["tensorrt_llm"] == "1.2.1"
    assert {"engine/config.json", "engine/rank0.engine", "engine/rank1.engine"} <= set(shown["files"])
    refused = engine.run("deploy")
    assert refused.code == 5
    assert "h100_sxm" in refused.err


def test_an_engine_artifact_is_written_for_containers_with_its_world_size(engine, tmp_path: Path) -> None:
    outcome = engine.ok("deploy", "--to", "compose", "--out", str(tmp_path / "out"), "--output", "json").json
    assert outcome["started"] is False
    written = "\n".join(Path(name).read_text() for name in outcome["files"])
    assert "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3" in written
    assert "mpirun" in written
    assert written.count("--load-model=tensorrt_llm") == 1  # rank 1; rank 0 loads everything
    assert "127.0.0.1:8000:8000" in written


def test_an_engine_artifact_migrates_to_the_runtime_that_outlives_it(engine) -> None:
    outcome = engine.ok("migrate", "--to", "pytorch")
    assert "engine files" in outcome.err
    (engine.folder / "next.yaml").write_text(outcome.out)
    assert yaml.safe_load(outcome.out)["runtime"] == "pytorch"
    plan = engine.ok("plan", "--spec", "next.yaml", "--output", "json").json
    assert plan["identifier"] == "tiny-llama-bf16-h100_sxm-tp2pp1-pytorch"
    engine.ok("build", "model", "--spec", "next.yaml")
    shown = engine.ok("artifact", "show", "tiny-llama-bf16-h100_sxm-tp2pp1-pytorch").json
    assert {"engine/model.safetensors", "engine/model.yaml", "model_repository/tensorrt_llm/1/model.yaml"} <= set(
        shown["files"]
    )


@pytest.mark.parametrize(
    ("accident", "code"), [("gpu_oom", 8), ("version_tag", 5), ("unsupported_sm", 5), ("killed", 8)]
)
def test_a_build_that_fails_leaves_no_artifact_and_says_why(kit, tiny_llama: Path, accident: str, code: int) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    outcome = kit.run(*ENGINE, TRTLLM_BUILD_COMMAND=STANDIN, STANDIN_FAIL=accident)
    assert outcome.code == code, outcome.err
    assert "to do:" in outcome.err
    assert kit.ok("artifact", "list", "--output", "json").json == []
    assert list((kit.store / "stages" / "compile").glob("*.build.log"))
    kit.ok(*ENGINE, TRTLLM_BUILD_COMMAND=STANDIN)


def test_a_cpu_artifact_has_nothing_to_migrate(built) -> None:
    assert built.run("migrate").code == 3
