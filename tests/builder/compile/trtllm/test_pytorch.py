"""The `pytorch` runtime: a checkpoint and a `model.yaml` of fields that old and new TensorRT-LLM both accept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.compile import pytorch
from builder.plan import BuildPlan, KvCache
from trtllm_kit.console import Silent
from trtllm_kit.errors import HostError, SpecError

MakePlan = Callable[..., BuildPlan]

COMMON_FIELDS: dict[str, Any] = {
    "backend": str,
    "tensor_parallel_size": int,
    "pipeline_parallel_size": int,
    "max_batch_size": int,
    "max_input_len": int,
    "max_seq_len": int,
    "max_num_tokens": int,
    "max_beam_width": int,
    "enable_chunked_prefill": bool,
    "kv_cache_config": {
        "enable_block_reuse": bool,
        "free_gpu_memory_fraction": float,
        "max_tokens": int,
        "dtype": str,
        "tokens_per_block": int,
        "host_cache_size": int,
    },
    "scheduler_config": {"capacity_scheduler_policy": str},
    "cuda_graph_config": {"max_batch_size": int, "batch_sizes": list, "enable_padding": bool},
}
"""LlmArgs fields that TensorRT-LLM 1.3.0rc3 and the main branch of autumn 2026 both have, with their types."""


@pytest.fixture
def plan(make_plan: MakePlan) -> BuildPlan:
    return make_plan(runtime="pytorch")


def check_fields(tree: dict[str, Any], known: dict[str, Any]) -> None:
    for name, value in tree.items():
        assert name in known
        if isinstance(known[name], dict):
            check_fields(value, known[name])
        else:
            assert type(value) is known[name], name


def rich(plan: BuildPlan) -> BuildPlan:
    """A plan that sets whatever can be set."""
    kv_cache = KvCache(dtype="fp8", free_gpu_memory_fraction=0.8, enable_block_reuse=False, max_tokens=4096)
    build = replace(plan.build, tokens_per_block=64, max_beam_width=2)
    return replace(plan, kv_cache=kv_cache, build=build, tp_size=2, pp_size=4)


def test_only_common_fields_are_written(plan: BuildPlan) -> None:
    check_fields(pytorch.llm_args(plan), COMMON_FIELDS)
    check_fields(pytorch.llm_args(rich(plan)), COMMON_FIELDS)


def test_the_plan_is_what_is_written(plan: BuildPlan) -> None:
    args = pytorch.llm_args(rich(plan))
    assert (args["tensor_parallel_size"], args["pipeline_parallel_size"], args["max_beam_width"]) == (2, 4, 2)
    assert args["kv_cache_config"] == {
        "enable_block_reuse": False,
        "free_gpu_memory_fraction": 0.8,
        "max_tokens": 4096,
        "dtype": "fp8",
        "tokens_per_block": 64,
    }
    assert args["scheduler_config"] == {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"}
    assert args["enable_chunked_prefill"] is True


def test_upstreams_defaults_are_left_to_upstream(plan: BuildPlan) -> None:
    args = pytorch.llm_args(plan)
    assert set(args["kv_cache_config"]) == {"enable_block_reuse", "free_gpu_memory_fraction"}
    assert "max_beam_width" not in args


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_folder_is_the_checkpoint_and_its_yaml(plan: BuildPlan, golden: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        out.mkdir()
        pytorch.compile(golden / "hf-int8_wo", plan, out, Silent())
    first, second = map(digests, outs)
    assert first == second
    source = digests(golden / "hf-int8_wo")
    assert {name: first[name] for name in source} == source
    assert first.keys() - source.keys() == {"model.yaml"}
    text = (outs[0] / "model.yaml").read_text()
    assert text.startswith("# LlmArgs for TensorRT-LLM 1.2.1\n")
    assert yaml.safe_load(text) == pytorch.llm_args(plan)


def test_a_stage_record_is_no_part_of_the_model(plan: BuildPlan, tmp_path: Path) -> None:
    source, out = tmp_path / "checkpoint", tmp_path / "engine"
    source.mkdir()
    out.mkdir()
    (source / ".stage.json").write_text("{}")
    (source / "config.json").write_text("{}")
    pytorch.compile(source, plan, out, Silent())
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.yaml"]


def test_a_folder_that_cannot_be_written_is_a_host_error(plan: BuildPlan, golden: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(HostError):
        pytorch.compile(golden / "hf-bf16", plan, blocked / "engine", Silent())


@pytest.mark.parametrize("version", ["1.0.0", "1.2.1", "1.3.0rc24"])
def test_versions_with_the_backend_pass(version: str, make_plan: MakePlan) -> None:
    pytorch.check(make_plan(runtime="pytorch", trtllm_version=version))


def test_a_version_without_the_backend_is_refused(plan: BuildPlan) -> None:
    with pytest.raises(SpecError, match=r"0\.21\.0 has no PyTorch backend"):
        pytorch.check(replace(plan, trtllm_version="0.21.0"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"build__kv_cache_type": "continuous"}, "kv_cache_type continuous"),
        ({"build__speculative_decoding_mode": "eagle"}, "speculative_decoding_mode eagle"),
        ({"build__gather_context_logits": True}, "gather_context_logits"),
        ({"build__gather_generation_logits": True}, "gather_generation_logits"),
    ],
)
def test_what_llmapi_does_not_serve_is_refused(changes: dict[str, Any], words: str, make_plan: MakePlan) -> None:
    plan = make_plan(runtime="pytorch", **changes)
    with pytest.raises(SpecError, match=words):
        pytorch.check(plan)


def test_the_fingerprint_follows_the_yaml(plan: BuildPlan) -> None:
    assert pytorch.inputs(plan) == pytorch.inputs(plan)
    assert pytorch.inputs(plan) != pytorch.inputs(rich(plan))
    assert pytorch.inputs(plan) != pytorch.inputs(replace(plan, trtllm_version="1.2.0"))


def test_the_manifest_names_what_serves_it(plan: BuildPlan) -> None:
    assert pytorch.versions(plan)["triton_image"].endswith(":26.07-trtllm-python-py3")
    assert pytorch.versions(replace(plan, trtllm_version="1.3.0rc24")) == {"tensorrt_llm": "1.3.0rc24"}
