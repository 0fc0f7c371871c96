from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.deploy import manage
from serving.deploy.options import DeployOptions

Manifest = dict[str, Any]


@pytest.fixture
def manifest() -> Manifest:
    """Of a build for the local server. Its models are the rule-driven ones, which need no engine."""
    return {
        "identifier": "tiny-bf16-cpu-tp1pp1-cpu",
        "digest": "d" * 64,
        "runtime": "cpu",
        "target": {"sku": "cpu", "sm": None, "tp_size": 1, "pp_size": 1},
        "versions": {"tensorrt_llm": "1.2.1"},
        "spec": {},
    }


@pytest.fixture
def engine_manifest() -> Manifest:
    """Of an engine build for two H100."""
    return {
        "identifier": "llama-fp8-h100_sxm-tp2pp1-tensorrt",
        "digest": "e" * 64,
        "runtime": "tensorrt",
        "target": {"sku": "h100_sxm", "sm": 90, "tp_size": 2, "pp_size": 1},
        "versions": {
            "tensorrt_llm": "1.2.1",
            "tensorrt": "10.14.1",
            "triton_image": "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        },
        "spec": {},
    }


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A store whose deployments are all stopped at the end, whatever the test did."""
    folder = tmp_path / "store"
    yield folder
    for status in manage.status(folder, probe_timeout_s=0.1) if folder.exists() else ():
        manage.stop(folder, status.deployment.name)


@pytest.fixture
def options(store: Path) -> Callable[..., DeployOptions]:
    def make(**values: Any) -> DeployOptions:
        return DeployOptions(store=store, **{"timeout_s": 30.0, "cpu_backend": (), **values})

    return make
