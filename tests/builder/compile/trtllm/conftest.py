"""Plans for GPU runtimes, checkpoints that NVIDIA ModelOpt wrote, and the stand-in for `trtllm-build`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.model_config import ModelConfig
from builder.plan import BuildFlags, BuildPlan

ROOT = Path(__file__).resolve().parents[4]
GOLDEN = ROOT / "tests" / "golden" / "modelopt"
STANDIN = ROOT / "tests" / "standins" / "trtllm-build"

SPEC: dict[str, Any] = {
    "precision": "bf16",
    "runtime": "tensorrt",
    "trtllm_version": "1.2.1",
    "target__sku": "h100_sxm",
    "target__tp_size": 1,
    "build__max_batch_size": 16,
    "build__max_input_len": 128,
    "build__max_seq_len": 256,
    "build__max_num_tokens": 1024,
    "build__multiple_profiles": "disable",
}


@pytest.fixture
def make_plan(plan_for: Callable[..., BuildPlan]) -> Callable[..., BuildPlan]:
    """`make_plan(precision=..., target__tp_size=..., build__max_batch_size=...)`: for an H100 unless told otherwise."""
    raw = json.loads((GOLDEN / "source" / "config.json").read_text())

    def make(**keys: Any) -> BuildPlan:
        return plan_for(raw, path=GOLDEN / "source", **{**SPEC, **keys})

    return make


@pytest.fixture
def flags(make_plan: Callable[..., BuildPlan]) -> BuildFlags:
    """Flags that every rule accepts as they are."""
    return make_plan().build


@pytest.fixture
def model_config(make_plan: Callable[..., BuildPlan]) -> ModelConfig:
    """The model of the golden checkpoints."""
    return make_plan().checkpoint.config


@pytest.fixture
def golden() -> Path:
    """Folder of the checkpoints that ModelOpt wrote."""
    return GOLDEN


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`standin(fail="gpu_oom", version="1.2.1", sm=90)`: builds run the stand-in, told how to behave."""

    def use(*, fail: str = "", version: str = "1.2.1", sm: int = 90) -> None:
        monkeypatch.setenv("TRTLLM_BUILD_COMMAND", shlex.join([sys.executable, str(STANDIN)]))
        monkeypatch.setenv("STANDIN_FAIL", fail)
        monkeypatch.setenv("STANDIN_VERSION", version)
        monkeypatch.setenv("STANDIN_SM", str(sm))

    return use
