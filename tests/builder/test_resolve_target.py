"""What a build is for, and stands on: `auto` is what a process would be given here, pins are inputs for GPUs."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from builder.compile import pytorch, tensorrt
from builder.plan import Pins

H100 = "NVIDIA H100 80GB HBM3"


def nvml(mig: bool) -> Any:
    """NVML's Python binding on a machine with one H100, whole or cut into two halves."""

    class NotFoundError(Exception):
        pass

    def part(handle: str, index: int) -> str:
        if index > 1:
            raise NotFoundError
        return f"{handle} MIG 3g.40gb"

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13010,
        "nvmlSystemGetDriverVersion": lambda: "590.44",
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: H100,
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (9, 0),
        "nvmlDeviceGetName": lambda handle: handle,
        "nvmlDeviceGetUUID": lambda handle: "GPU-1",
        "nvmlDeviceGetPciInfo": lambda handle: types.SimpleNamespace(pciDeviceId=0x233010DE),
        "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(total=80 << 30),
        "nvmlDeviceGetMigMode": lambda handle: [int(mig), int(mig)],
        "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": part,
    }
    errors = {"NVMLError": Exception, "NVMLError_NotSupported": KeyError, "NVMLError_NotFound": NotFoundError}
    return types.SimpleNamespace(**answers, **errors)


@pytest.mark.parametrize(("mig", "sku", "what"), [(False, "h100_sxm", "GPU"), (True, "h100_sxm_3g_40gb", "MIG slice")])
def test_auto_is_what_a_process_is_given(
    plan_for: Any, tiny_llama: Path, mig: bool, sku: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(mig))
    plan = plan_for(json.loads((tiny_llama / "config.json").read_text()), target__sku="auto")
    assert plan.sku.id == sku
    assert f"the first {what}" in plan.reasons["target.sku"]


def test_pins_are_inputs_of_builds_for_gpus_alone(plan_for: Any, tiny_llama: Path) -> None:
    config = json.loads((tiny_llama / "config.json").read_text())
    pins = {"pins__image_digest": "sha256:abc", "pins__driver_branch": "580"}
    for runtime, compiler in (("tensorrt", tensorrt), ("pytorch", pytorch)):
        keys = {"target__sku": "h100_sxm", "runtime": runtime, "precision": "bf16"}
        free, pinned = plan_for(config, **keys), plan_for(config, **keys, **pins)
        expected = {**compiler.inputs(free), "image_digest": "sha256:abc", "driver_branch": "580"}
        assert compiler.inputs(pinned) == expected
    assert plan_for(config, target__sku="cpu", **pins).pins == Pins()
