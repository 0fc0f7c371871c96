"""The IR computes what transformers computes in float32, for every family, and its bytes never change."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.compile.openvino_ir.model import write_ir
from builder.families import config_of
from trtllm_kit.errors import SpecError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
openvino = pytest.importorskip("openvino")
torch.set_num_threads(1)

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": "1"}
Logits = Callable[[Path, np.ndarray, Path], np.ndarray]

SMALL = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}


def rope(kind: str, **keys: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **keys}}


def gemma_rope(kind: str, **keys: Any) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "full_attention": {"rope_type": kind, "rope_theta": 1e6, **keys},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    }


LONGROPE = {
    "short_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0],
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 128,
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 32}
GEMMA = {
    "head_dim": 32,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": 24,
    "query_pre_attn_scalar": 50,
    "tie_word_embeddings": True,
}
MODELS = {
    "llama": ("Llama", {}),
    "llama-tied-mha": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("Llama", rope("llama3", **LLAMA3)),
    "llama-linear": ("Llama", rope("linear", factor=2.0)),
    "llama-yarn": ("Llama", rope("yarn", **YARN)),
    "llama-wide-heads": ("Llama", {"head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": 24}),
    "qwen2": ("Qwen2", {"use_sliding_window": False}),
    "qwen2-yarn": ("Qwen2", rope("yarn", **YARN)),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-tied": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3-moe": ("Qwen3Moe", {**EXPERTS, "norm_topk_prob": True}),
    "qwen3-moe-unnormalised": ("Qwen3Moe", EXPERTS),
    "gemma2": ("Gemma2", {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3", GEMMA),
    "gemma3-linear": ("Gemma3", GEMMA | gemma_rope("linear", factor=8.0)),
    "gemma3-untied": ("Gemma3", {**GEMMA, "tie_word_embeddings": False, "initializer_range": 0.4}),
    "phi3": ("Phi3", {"pad_token_id": 0}),
    "phi3-partial": ("Phi3", {"pad_token_id": 0, **rope("default", partial_rotary_factor=0.75)}),
    "phi3-longrope": ("Phi3", {"pad_token_id": 0, **rope("longrope", **LONGROPE)}),
}


def make(folder: Path, family: str, changes: dict[str, Any], dtype: str = "bfloat16") -> Path:
    torch.manual_seed(7)
    config_class = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")
    config = config_class(**{**SMALL, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:  # they start at one and zero, where a mistake would not show
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def reference(folder: Path, ids: np.ndarray) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def prompts(batch: int = 3, tokens: int = 90) -> np.ndarray:
    return np.random.default_rng(1).integers(0, SMALL["vocab_size"], (batch, tokens))


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(actual - expected).max() < 2e-4 * np.abs(expected).max()
    assert (actual.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name: str, ir_logits: Logits, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", *MODELS[name])
    assert_same(ir_logits(folder, prompts(), tmp_path / "ir"), reference(folder, prompts()))


@pytest.mark.parametrize("name", ["mistral", "qwen3-moe", "gemma2", "gemma3-untied", "phi3-partial"])
def test_paged_attention_generates_what_transformers_generates(name: str, tmp_path: Path) -> None:
    """OpenVINO rewrites the attention of the IR; windows, scales and rotations of every form must survive that."""
    genai = pytest.importorskip("openvino_genai")
    family, changes = MODELS[name]
    folder, ids, new = make(tmp_path / "model", family, {**changes, "eos_token_id": 1}), prompts(2, 40), 24
    write_ir(folder, config_of(json.loads((folder / "config.json").read_text())), tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    scheduler, settings = genai.SchedulerConfig(), genai.GenerationConfig()
    scheduler.num_kv_blocks, settings.max_new_tokens, settings.ignore_eos = 16, new, True
    pipeline = genai.ContinuousBatchingPipeline(tmp_path, scheduler, "CPU", EXACT)
    handles = [pipeline.add_request(number, openvino.Tensor(ids[number][None]), settings) for number in range(2)]
    while pipeline.has_non_finished_requests():
        pipeline.step()

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    whole = model.generate(torch.tensor(ids), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)
    expected = whole[:, ids.shape[1] :].tolist()
    assert [list(handle.read_all()[0].generated_ids) for handle in handles] == expected


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_logits_equal_transformers_in_other_types(dtype: str, ir_logits: Logits, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Llama", {}, dtype)
    assert_same(ir_logits(folder, prompts(), tmp_path / "ir"), reference(folder, prompts()))


def test_shards_read_as_one_file(ir_logits: Logits, tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", "Llama", {})
    model = transformers.AutoModelForCausalLM.from_pretrained(whole, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    write_all = [
        ir_logits(folder, prompts(), tmp_path / f"{folder.name}-ir") for folder in (whole, tmp_path / "shards")
    ]
    assert (write_all[0] == write_all[1]).all()


def test_same_input_same_bytes(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Qwen3", {"head_dim": 32})
    config = config_of(json.loads((folder / "config.json").read_text()))
    digests = set()
    for number in range(2):
        out = tmp_path / str(number)
        out.mkdir()
        write_ir(folder, config, out)
        digests.add(tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())))
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0, "rope_theta": 1e4}}, "incomplete"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "partial_rotary_factor": 0.5}, "partial"),
        ({"hidden_act": "relu6"}, "relu6"),
        ({"head_dim": 15}, "odd"),
        ({"vocab_size": 161}, "embedding"),
        ({"intermediate_size": 128}, "fits no weight format"),
        ({"num_hidden_layers": 3}, "no tensor"),
    ],
)
def test_refuses_what_it_cannot_compute(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Llama", {})
    raw = json.loads((folder / "config.json").read_text()) | change
    with pytest.raises(SpecError, match=says):
        write_ir(folder, config_of(raw), tmp_path)
    assert not (tmp_path / "openvino_model.xml").exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "header", "absent"])
def test_refuses_a_damaged_file(damage: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Llama", {})
    config = config_of(json.loads((folder / "config.json").read_text()))
    file = folder / "model.safetensors"
    content = {"empty": b"", "truncated": file.read_bytes()[:-50_000], "header": b"\xff" * 64}.get(damage)
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(SpecError):
        write_ir(folder, config, tmp_path)
    assert not (tmp_path / "openvino_model.xml").exists()


def test_refuses_the_soft_cap_that_paged_attention_lacks(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Gemma2", {**GEMMA, "attn_logit_softcapping": 50.0})
    with pytest.raises(SpecError, match="attn_logit_softcapping 50"):
        write_ir(folder, config_of(json.loads((folder / "config.json").read_text())), tmp_path)


def test_refuses_a_bias_that_the_family_does_not_use(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Llama", {"attention_bias": True})
    raw = json.loads((folder / "config.json").read_text()) | {"attention_bias": False}
    with pytest.raises(SpecError, match="bias"):
        write_ir(folder, config_of(raw), tmp_path)
