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

from builder.checkpoint import Checkpoint
from builder.compile import cpu
from builder.compile.openvino_ir.settings import CpuEngineSettings
from builder.families import config_of
from builder.plan import BuildFlags, BuildPlan, KvCache, ServingPlan, ValidationPlan
from profiles.skus import Sku
from trtllm_kit.console import Silent
from trtllm_kit.errors import BuildStepError, HostError, SpecError
from trtllm_kit.identifier import BuildIdentifier
from trtllm_kit.spec import BuildSpec

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
def make_plan() -> Callable[..., BuildPlan]:
    def make(*, build: dict[str, Any] | None = None, kv_cache: dict[str, Any] | None = None, **plan: Any) -> BuildPlan:
        decided = {"max_batch_size": 4, "max_input_len": 100, "max_seq_len": 128, "max_num_tokens": 8192}
        decided |= {
            "opt_num_tokens": None,
            "use_fp8_context_fmha": "disable",
            "multiple_profiles": "disable",
            "workers": 1,
        }
        flags = BuildFlags(**{**BuildSpec().model_dump(), **decided, **(build or {})})
        cache = KvCache(dtype="auto", free_gpu_memory_fraction=0.9, enable_block_reuse=True, max_tokens=500)
        return BuildPlan(
            **{
                "identifier": BuildIdentifier(model="m", precision="fp16", sku="cpu", tp=1, pp=1, runtime="cpu"),
                "checkpoint": Checkpoint(
                    source="m", path=Path("m"), config=config_of(CONFIG), tensors={}, files={}, digest="0" * 64
                ),
                "precision": "fp16",
                "sku": Sku(id="cpu", name="CPU", arch="cpu", sm=None, memory_gb=None),
                "tp_size": 1,
                "pp_size": 1,
                "runtime": "cpu",
                "trtllm_version": "1.2.1",
                "kv_cache": dataclasses.replace(cache, **(kv_cache or {})),
                "build": flags,
                "serving": ServingPlan(
                    concurrency=4,
                    decoupled_mode=True,
                    triton_max_batch_size=4,
                    preprocessing_instance_count=1,
                    postprocessing_instance_count=1,
                    bls_instance_count=4,
                    max_queue_size=0,
                    max_queue_delay_microseconds=0,
                    batch_scheduler_policy="guaranteed_no_evict",
                    enable_chunked_context=False,
                    exclude_input_in_output=True,
                    add_special_tokens=True,
                    skip_special_tokens=True,
                    accumulate_tokens=True,
                    cpu_threads=1,
                    root="",
                ),
                "validation": ValidationPlan(
                    concurrencies=(1,),
                    requests_per_level=1,
                    input_len=8,
                    output_len=8,
                    ttft_p95_ms=None,
                    tpot_p95_ms=None,
                    min_output_tokens_per_s=None,
                ),
                **plan,
            }
        )

    return make


def compile_into(out: Path, checkpoint: Path, plan: BuildPlan) -> dict[str, str]:
    out.mkdir()
    cpu.compile(checkpoint, plan, out, Silent())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def test_writes_an_engine_and_the_same_one_again(
    checkpoint: Path, make_plan: Callable[..., BuildPlan], tmp_path: Path
) -> None:
    plan = make_plan()
    cpu.check(plan)
    first = compile_into(tmp_path / "a", checkpoint, plan)
    assert set(first) == {"openvino_model.xml", "openvino_model.bin", "config.json", "engine.json"}
    assert compile_into(tmp_path / "b", checkpoint, plan) == first
    settings = CpuEngineSettings.read(tmp_path / "a")
    assert (settings.max_batch_size, settings.max_num_tokens, settings.max_seq_len) == (4, 512, 128)
    assert (settings.num_kv_blocks, settings.kv_capacity_tokens) == (17, 512)
    assert (settings.kv_cache_precision, settings.dynamic_quantization_group_size) == ("f32", 0)
    assert (settings.eos_token_ids, settings.pad_token_id, settings.vocab_size) == ((2, 3), 0, 64)
    assert json.loads((tmp_path / "a" / "config.json").read_text()) == CONFIG


def test_inputs_follow_what_the_engine_depends_on(make_plan: Callable[..., BuildPlan]) -> None:
    base = cpu.inputs(make_plan())
    assert json.loads(json.dumps(base)) == json.loads(json.dumps(cpu.inputs(make_plan())))
    assert cpu.inputs(make_plan(build={"max_seq_len": 64})) != base
    assert cpu.inputs(make_plan(kv_cache={"dtype": "int8"})) != base
    assert cpu.versions(make_plan()) == {"openvino_genai": importlib.metadata.version("openvino-genai")}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tp_size": 2}, "2 ranks"),
        ({"build": {"max_beam_width": 4}}, "beam"),
        ({"build": {"kv_cache_type": "continuous"}}, "continuous"),
        ({"build": {"tokens_per_block": 64}}, "64 tokens a block"),
        ({"build": {"speculative_decoding_mode": "medusa"}}, "speculative"),
        ({"build": {"gather_context_logits": True}}, "logits"),
        ({"build": {"lora_plugin": "auto"}}, "LoRA"),
        ({"kv_cache": {"dtype": "fp8"}}, "fp8"),
        ({"kv_cache": {"max_tokens": None}}, "fraction"),
        ({"kv_cache": {"max_tokens": 127}}, "127 tokens"),
        ({"build": {"max_seq_len": 129}}, "sliding window of 128"),
    ],
)
def test_refuses_a_plan_before_any_work(
    changes: dict[str, Any], says: str, make_plan: Callable[..., BuildPlan]
) -> None:
    with pytest.raises(SpecError, match=says) as refused:
        cpu.check(make_plan(**changes))
    assert refused.value.expected
    assert refused.value.fix


@pytest.mark.parametrize(
    ("package", "found"), [("openvino-genai", "2025.1.0.0"), ("openvino-genai", None), ("numpy", "2.1.0")]
)
def test_refuses_a_host_without_its_tools(
    package: str, found: str | None, make_plan: Callable[..., BuildPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
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
