"""The cpu compiler as a stage: what it writes, that it writes the same again, and the plans that it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from builder.compile import cpu
from builder.compile.openvino_ir.settings import CpuEngineSettings, runtime_version
from builder.compile.openvino_ir.weights import EXPANDED
from builder.plan import BuildPlan
from trtllm_kit.console import Silent
from trtllm_kit.errors import BuildStepError, HostError, SpecError

CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "dtype": "float16",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
}
SPEC: dict[str, Any] = {
    "precision": "fp16",
    "runtime": "cpu",
    "trtllm_version": "1.2.1",
    "target__sku": "cpu",
    "kv_cache__max_tokens": 500,
    "build__max_batch_size": 4,
    "build__max_input_len": 100,
    "build__max_seq_len": 128,
    "build__max_num_tokens": 8192,
    "serving__cpu_threads": 1,
}
SHAPES = {
    "model.embed_tokens.weight": (64, 32),
    "model.norm.weight": (32,),
    "lm_head.weight": (64, 32),
    "model.layers.0.self_attn.q_proj.weight": (32, 32),
    "model.layers.0.self_attn.k_proj.weight": (16, 32),
    "model.layers.0.self_attn.v_proj.weight": (16, 32),
    "model.layers.0.self_attn.o_proj.weight": (32, 32),
    "model.layers.0.mlp.gate_proj.weight": (64, 32),
    "model.layers.0.mlp.up_proj.weight": (64, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 64),
    "model.layers.0.input_layernorm.weight": (32,),
    "model.layers.0.post_attention_layernorm.weight": (32,),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    random = np.random.default_rng(0)
    save_file(
        {name: random.normal(0, 0.2, shape).astype(np.float16) for name, shape in SHAPES.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": {"quant_method": "modelopt"}}))
    return folder


@pytest.fixture
def make_plan(plan_for: Callable[..., BuildPlan]) -> Callable[..., BuildPlan]:
    """A small plan; keyword arguments change keys of its spec."""

    def make(**keys: Any) -> BuildPlan:
        return plan_for(CONFIG, **{**SPEC, **keys})

    return make


def compile_into(out: Path, checkpoint: Path, plan: BuildPlan) -> dict[str, str]:
    out.mkdir()
    cpu.compile(checkpoint, plan, out, Silent())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def test_writes_an_engine_and_the_same_one_again(
    checkpoint: Path, make_plan: Callable[..., BuildPlan], tmp_path: Path
) -> None:
    plan = make_plan(build__max_seq_len=200)  # beyond the model's sliding window
    cpu.check(plan)
    first = compile_into(tmp_path / "a", checkpoint, plan)
    assert set(first) == {"openvino_model.xml", "openvino_model.bin", "config.json", "engine.json"}
    assert compile_into(tmp_path / "b", checkpoint, plan) == first
    settings = CpuEngineSettings.read(tmp_path / "a")
    assert (settings.max_batch_size, settings.max_num_tokens, settings.max_seq_len) == (4, 512, 200)
    assert (settings.num_kv_blocks, settings.kv_capacity_tokens) == (17, 512)
    assert (settings.kv_cache_precision, settings.dynamic_quantization_group_size) == ("f32", 0)
    assert (settings.eos_token_ids, settings.pad_token_id, settings.vocab_size) == ((2, 3), 0, 64)
    assert settings.weights == {"float": EXPANDED}
    assert json.loads((tmp_path / "a" / "config.json").read_text()) == CONFIG


def with_kv_cache(plan: BuildPlan, **changes: Any) -> BuildPlan:
    """A plan that no spec gives for the cpu runtime."""
    return dataclasses.replace(plan, kv_cache=dataclasses.replace(plan.kv_cache, **changes))


def test_inputs_follow_what_the_engine_depends_on(make_plan: Callable[..., BuildPlan]) -> None:
    base = cpu.inputs(make_plan())
    assert json.loads(json.dumps(base)) == json.loads(json.dumps(cpu.inputs(make_plan())))
    assert cpu.inputs(make_plan(build__max_seq_len=64)) != base
    assert cpu.inputs(with_kv_cache(make_plan(), dtype="int8")) != base
    assert cpu.versions(make_plan()) == {"openvino_genai": importlib.metadata.version("openvino-genai")}


def assert_refused(plan: BuildPlan, says: str) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        cpu.check(plan)
    assert refused.value.expected
    assert refused.value.fix


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"build__max_beam_width": 4}, "beam"),
        ({"build__kv_cache_type": "continuous"}, "continuous"),
        ({"build__tokens_per_block": 64}, "64 tokens a block"),
        ({"build__speculative_decoding_mode": "medusa"}, "speculative"),
        ({"build__gather_context_logits": True}, "logits"),
        ({"build__lora_plugin": "auto"}, "LoRA"),
        ({"kv_cache__max_tokens": 127}, "127 tokens"),
    ],
)
def test_refuses_a_plan_before_any_work(
    changes: dict[str, Any], says: str, make_plan: Callable[..., BuildPlan]
) -> None:
    assert_refused(make_plan(**changes), says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda plan: dataclasses.replace(plan, tp_size=2), "2 ranks"),
        (lambda plan: with_kv_cache(plan, dtype="fp8"), "fp8"),
        (lambda plan: with_kv_cache(plan, max_tokens=None), "fraction"),
    ],
)
def test_refuses_a_plan_that_no_spec_gives(
    change: Callable[[BuildPlan], BuildPlan], says: str, make_plan: Callable[..., BuildPlan]
) -> None:
    assert_refused(change(make_plan()), says)


def test_longrope_is_exact_up_to_the_length_of_its_first_factors(plan_for: Callable[..., BuildPlan]) -> None:
    factors = [1.0] * 8
    scaling = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors}
    scaling["original_max_position_embeddings"] = 64
    phi3 = {**CONFIG, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "rope_scaling": scaling}
    cpu.check(plan_for(phi3, **{**SPEC, "build__max_seq_len": 64, "build__max_input_len": 32}))
    assert_refused(
        plan_for(phi3, **{**SPEC, "build__max_seq_len": 65, "build__max_input_len": 32}), "beyond the 64 tokens"
    )


@pytest.mark.parametrize(
    ("package", "found"), [("openvino-genai", "2025.1.0.0"), ("openvino-genai", None), ("numpy", "2.1.0")]
)
def test_refuses_a_host_without_its_tools(
    package: str,
    found: str | None,
    make_plan: Callable[..., BuildPlan],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    runtime_version.cache_clear()
    request.addfinalizer(runtime_version.cache_clear)
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name != package:
            return real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(HostError, match=package) as refused:
        cpu.check(make_plan())
    assert "trtllm-kit[cpu]" in refused.value.fix


def test_a_full_disk_leaves_no_engine_behind(
    checkpoint: Path, make_plan: Callable[..., BuildPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """openvino does not notice a full disk; its file is cut here as such a disk would."""
    import builder.compile.openvino_ir.model as model

    write = model.write_ir

    def cut(*arguments: Any) -> None:
        write(*arguments)
        (tmp_path / "out" / "openvino_model.bin").write_bytes(b"")

    monkeypatch.setattr(model, "write_ir", cut)
    with pytest.raises(BuildStepError, match="not whole"):
        compile_into(tmp_path / "out", checkpoint, make_plan())
