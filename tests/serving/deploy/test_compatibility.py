from __future__ import annotations

import pytest

from profiles.detect import GpuReading, MigSlice, Snapshot, identify
from serving.deploy.compatibility import Target, check, differences
from serving.deploy.machine import gpu_facts
from trtllm_kit.errors import IncompatibleError

FIT = {
    "name": "gpu-host-1",
    "runtimes": ("tensorrt", "pytorch"),
    "sku": "h100_sxm",
    "sm": 90,
    "gpu_count": 2,
    "trtllm": "1.2.1",
    "tensorrt": "10.14.1.48",
}


@pytest.mark.parametrize("change", [{}, {"gpu_count": 8}, {"tensorrt": "10.14.1"}])
def test_what_fits_is_let_through(engine_manifest, change) -> None:
    check(engine_manifest, Target(**{**FIT, **change}))


@pytest.mark.parametrize("fact", ["runtimes", "sku", "sm", "gpu_count", "trtllm", "tensorrt"])
def test_unknown_facts_are_not_compared(engine_manifest, fact: str) -> None:
    check(engine_manifest, Target(**{**FIT, fact: None}))


@pytest.mark.parametrize(
    ("change", "what", "built", "has"),
    [
        ({"runtimes": ("cpu",)}, "runtime", "tensorrt", "a server for cpu"),
        ({"sku": "h100_pcie"}, "SKU", "h100_sxm", "h100_pcie"),
        ({"sku": "h100_sxm_3g_40gb"}, "SKU", "h100_sxm", "h100_sxm_3g_40gb"),
        ({"sm": 80}, "compute capability", "9.0", "8.0"),
        ({"sm": 100}, "compute capability", "9.0", "10.0"),
        ({"gpu_count": 1}, "world size", "2 GPUs (tp 2 x pp 1)", "1"),
        ({"trtllm": "1.3.0"}, "TensorRT-LLM", "1.2.1", "1.3.0"),
        ({"tensorrt": "10.11.0"}, "TensorRT", "10.14.1", "10.11.0"),
    ],
)
def test_each_difference_is_refused(engine_manifest, change, what: str, built: str, has: str) -> None:
    (difference,) = differences(engine_manifest, Target(**{**FIT, **change}))
    assert (difference.what, difference.built_for, difference.target_has) == (what, built, has)
    assert difference.fix
    with pytest.raises(IncompatibleError) as caught:
        check(engine_manifest, Target(**{**FIT, **change}))
    assert caught.value.exit_code == 5


PARTS = (MigSlice(profile="3g.40gb", memory_bytes=40 << 30, uuid="MIG-1"),) * 2


@pytest.mark.parametrize(
    ("built", "mig", "parts", "facts"),
    [
        ("h100_sxm", False, (), {"sku": "h100_sxm", "sm": 90, "gpu_count": 2}),
        ("h100_sxm", True, PARTS, {"sku": "h100_sxm_3g_40gb", "sm": 90, "gpu_count": 1}),
        ("h100_sxm_3g_40gb", True, PARTS, {"sku": "h100_sxm_3g_40gb", "sm": 90, "gpu_count": 1}),
        ("h100_sxm_3g_40gb", False, (), {"sku": "h100_sxm", "sm": 90, "gpu_count": 2}),
        ("h100_sxm", True, (), {"sku": None, "sm": None, "gpu_count": 0}),
    ],
)
def test_a_slice_is_no_whole_gpu_nor_the_other_way_round(engine_manifest, built, mig, parts, facts) -> None:
    gpu = GpuReading(
        index=0,
        name="NVIDIA H100 80GB HBM3",
        uuid="GPU-1",
        pci_device_id="2330",
        sm=90,
        memory_bytes=80 << 30,
        mig_enabled=mig,
        mig_slices=parts,
    )
    place = {"sku": built, "sm": 90, "tp_size": 1, "pp_size": 1}
    manifest = {**engine_manifest, "target": {**engine_manifest["target"], **place}}
    found = gpu_facts(manifest, identify(Snapshot(gpus=(gpu, gpu))))
    assert found == facts
    said = [str(difference) for difference in differences(manifest, Target(**{**FIT, **found}))]
    assert bool(said) == (built != facts["sku"])
    assert all("MIG slice" in line for line in said if "SKU" in line)


def test_the_gpus_of_the_artifacts_own_sku_are_counted(engine_manifest) -> None:
    one, other = (
        GpuReading(index=0, name="", uuid="", pci_device_id=device, sm=sm, memory_bytes=1 << 30)
        for device, sm in (("27B8", 89), ("2330", 90))
    )
    found = gpu_facts(engine_manifest, identify(Snapshot(gpus=(one, other, other))))
    assert found == {"sku": "h100_sxm", "sm": 90, "gpu_count": 2}


def test_all_differences_are_listed_at_once(engine_manifest) -> None:
    target = Target(**{**FIT, "sku": "a100_sxm_80gb", "sm": 80, "gpu_count": 1, "trtllm": "1.0.0"})
    with pytest.raises(IncompatibleError) as caught:
        check(engine_manifest, target)
    text = str(caught.value)
    assert all(word in text for word in ("SKU", "compute capability", "world size", "TensorRT-LLM", "gpu-host-1"))


def test_a_cpu_build_runs_wherever_its_runtime_is_served(manifest) -> None:
    check(manifest, Target(name="laptop", runtimes=("cpu",), sku="rtx_4090", trtllm="1.0.0"))
    with pytest.raises(IncompatibleError, match="--to local"):
        check(manifest, Target(**FIT))


def test_the_pytorch_runtime_has_no_tensorrt_to_differ(engine_manifest) -> None:
    check({**engine_manifest, "runtime": "pytorch"}, Target(**{**FIT, "tensorrt": "10.11.0"}))
