"""From an engine to the PyTorch backend: what is lost, what replaces it, and a spec that can be built."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from builder.migrate import plan_migration
from profiles import support
from profiles.skus import find
from trtllm_kit import spec as spec_file
from trtllm_kit.errors import SpecError

SPEC: dict[str, Any] = {
    "model": "org/llama",
    "name": "llama",
    "precision": "bf16",
    "runtime": "tensorrt",
    "trtllm_version": "1.2.1",
    "target": {"sku": "h100_sxm", "tp_size": 2, "pp_size": 1},
    "kv_cache": {"dtype": "auto", "free_gpu_memory_fraction": 0.9},
    "build": {"max_batch_size": 64, "max_seq_len": 4096, "gemm_plugin": "auto", "multiple_profiles": "enable"},
    "serving": {"decoupled_mode": True, "accumulate_tokens": True, "bls_instance_count": 64, "concurrency": 64},
}


def artifact(
    precision: str = "bf16", kv_dtype: str = "auto", sku: str = "h100_sxm", version: str = "1.2.1", **build: Any
):
    spec = copy.deepcopy(SPEC)
    spec["precision"], spec["trtllm_version"] = precision, version
    spec["kv_cache"]["dtype"], spec["target"]["sku"] = kv_dtype, sku
    spec["build"] |= build
    return spec, {"runtime": "tensorrt", "precision": precision, "target": {"sku": sku}, "spec": spec}


def test_a_plain_engine_keeps_its_precision_and_limits() -> None:
    moved = plan_migration(*artifact())
    spec = moved.new_spec
    assert (spec["runtime"], spec["precision"], spec["trtllm_version"]) == ("pytorch", "bf16", "1.2.1")
    assert spec["build"] == {"max_batch_size": 64, "max_seq_len": 4096}
    assert spec["target"] == SPEC["target"]
    assert "bls_instance_count" not in spec["serving"]
    assert spec["serving"]["concurrency"] == 64


def test_the_new_spec_is_a_spec() -> None:
    for precision, kv_dtype in (("bf16", "auto"), ("int8_sq", "int8")):
        new = dict(plan_migration(*artifact(precision, kv_dtype)).new_spec)
        assert spec_file.parse(new).runtime == "pytorch"


def test_what_every_engine_loses_is_listed() -> None:
    moved = plan_migration(*artifact())
    gone = dict(moved.replaced)
    assert any("rank*.engine" in text for text in gone)
    assert any("nv_trt_llm_" in text for text in gone)
    assert "cumulative" in gone["streamed deltas: each response held only the new text"]
    assert any("embedding_bias" in text for text in moved.lost)
    assert any(text.startswith("BLS") for text in moved.lost)
    assert set(moved.lost).isdisjoint(gone)


def test_what_an_artifact_never_had_is_not_lost() -> None:
    spec, manifest = artifact()
    spec["serving"] |= {"decoupled_mode": False, "accumulate_tokens": False}
    texts = [change.lost for change in plan_migration(spec, manifest).changes]
    assert not any("delta" in text or "accumulate" in text for text in texts)
    assert "context logits" not in texts
    assert "context logits" in plan_migration(*artifact(gather_context_logits=True)).lost
    assert any("speculative" in text for text in plan_migration(*artifact(speculative_decoding_mode="eagle")).lost)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("int8_sq", "int8", "h100_sxm"), ("fp8", "fp8")),
        (("int8_sq", "auto", "a100_sxm_80gb"), ("int8_wo", "auto")),
        (("int8_sq", "fp8", "rtx_5090"), ("fp8", "fp8")),
        (("bf16", "int8", "h100_sxm"), ("bf16", "fp8")),
        (("int4_awq", "auto", "rtx_5090"), ("nvfp4", "auto")),
        (("fp8", "fp8", "b200_sxm"), ("fp8", "fp8")),
    ],
)
def test_an_impossible_precision_is_replaced_by_the_closest(old: tuple[str, str, str], new: tuple[str, str]) -> None:
    precision, kv_dtype, sku = old
    moved = plan_migration(*artifact(precision, kv_dtype, sku))
    found = (moved.new_spec["precision"], moved.new_spec["kv_cache"]["dtype"])
    assert found == new
    support.check("pytorch", *found, find(sku), moved.new_spec["trtllm_version"])
    said = dict(moved.replaced)
    assert (f"precision {precision}" in said) is (precision != new[0])
    assert (f"KV cache in {kv_dtype}" in said) is (kv_dtype != new[1])


def test_only_what_can_be_built_is_offered() -> None:
    moved = plan_migration(*artifact("int8_sq"), available=("bf16", "fp16", "int8_wo"))
    assert moved.new_spec["precision"] == "int8_wo"
    with pytest.raises(SpecError, match="nothing like int8_sq"):
        plan_migration(*artifact("int8_sq"), available=())


def test_an_old_version_moves_to_one_with_the_backend() -> None:
    moved = plan_migration(*artifact(version="0.21.0"))
    assert moved.new_spec["trtllm_version"] == "1.2.1"
    assert "TensorRT-LLM 0.21.0" in dict(moved.replaced)


def test_the_inputs_are_left_alone() -> None:
    spec, manifest = artifact("int8_sq", "int8")
    before = copy.deepcopy((spec, manifest))
    plan_migration(spec, manifest)
    assert (spec, manifest) == before


@pytest.mark.parametrize("runtime", ["pytorch", "cpu"])
def test_only_engines_migrate(runtime: str) -> None:
    spec, manifest = artifact()
    with pytest.raises(SpecError, match=f"{runtime} runtime has no engine"):
        plan_migration(spec, {**manifest, "runtime": runtime})


def test_only_to_pytorch() -> None:
    with pytest.raises(SpecError, match="no migration leads to 'cpu'"):
        plan_migration(*artifact(), to="cpu")
