from __future__ import annotations

import pytest

from serving.deploy.compatibility import Target, check, differences
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
        ({"sku": "h100_sxm_mig_1g.10gb"}, "SKU", "h100_sxm", "h100_sxm_mig_1g.10gb"),
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
