"""The IR computes what transformers computes in float32, for every family, and its bytes never change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from builder.compile.openvino_ir.model import write_ir
from builder.families import config_of
from trtllm_kit.errors import SpecError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
openvino = pytest.importorskip("openvino")
torch.set_num_threads(1)

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


MODELS = {
    "llama": ("Llama", {}),
    "llama-tied-mha": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("Llama", rope("llama3", **LLAMA3)),
    "llama-linear": ("Llama", rope("linear", factor=2.0)),
    "llama-yarn": ("Llama", rope("yarn", **YARN)),
    "llama-wide-heads": ("Llama", {"head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": 128}),
    "qwen2": ("Qwen2", {"use_sliding_window": False}),
    "qwen2-yarn": ("Qwen2", rope("yarn", **YARN)),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-tied": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
}


def make(folder: Path, family: str, changes: dict[str, Any], dtype: str = "bfloat16") -> Path:
    torch.manual_seed(7)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **changes})
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


def ir_logits(folder: Path, ids: np.ndarray, out: Path) -> np.ndarray:
    out.mkdir(exist_ok=True)
    write_ir(folder, config_of(json.loads((folder / "config.json").read_text())), out)
    properties = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": "1"}
    properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
    compiled = openvino.Core().compile_model(out / "openvino_model.xml", "CPU", properties)
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions}
    feeds["beam_idx"] = np.arange(len(ids), dtype=np.int32)
    return np.array(compiled.create_infer_request().infer(feeds)["logits"])


def prompts(batch: int = 3, tokens: int = 90) -> np.ndarray:
    return np.random.default_rng(1).integers(0, SMALL["vocab_size"], (batch, tokens))


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(actual - expected).max() < 2e-4 * np.abs(expected).max()
    assert (actual.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", *MODELS[name])
    assert_same(ir_logits(folder, prompts(), tmp_path / "ir"), reference(folder, prompts()))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_logits_equal_transformers_in_other_types(dtype: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Llama", {}, dtype)
    assert_same(ir_logits(folder, prompts(), tmp_path / "ir"), reference(folder, prompts()))


def test_shards_read_as_one_file(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", "Llama", {})
    model = transformers.AutoModelForCausalLM.from_pretrained(whole, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    write_all = [
        ir_logits(folder, prompts(), tmp_path / f"{folder.name}-ir") for folder in (whole, tmp_path / "shards")
    ]
    assert (write_all[0] == write_all[1]).all()


def quantized(folder: Path, out: Path, pack: Any) -> tuple[Path, Path]:
    """`folder` with its linear layers through `pack` (weight → stored tensors, dequantized), and the float twin."""
    tensors = load_file(folder / "model.safetensors")
    stored, twin = {}, {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and "_proj" in name:
            extra, twin[name] = pack(tensor)
            stored |= {name.removesuffix("weight") + suffix: value for suffix, value in extra.items()}
        else:
            stored[name] = twin[name] = tensor
    for target, content in ((out / "stored", stored), (out / "twin", twin)):
        target.mkdir(parents=True)
        save_file({name: np.ascontiguousarray(value) for name, value in content.items()}, target / "model.safetensors")
        (target / "config.json").write_text((folder / "config.json").read_text())
    return out / "stored", out / "twin"


def int8(weight: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    scale = (np.abs(weight).max(1) / 127).astype(np.float32)
    q = np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8)
    return {"weight": q, "weight_scale": scale}, q * scale[:, None]


def int4(weight: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Groups of 32 inputs; two output rows in a byte, the even one low; an input scale on top."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, 32)
    scale = (np.abs(groups).max(2) / 7).astype(np.float32)
    q = np.clip(np.rint(groups / scale[..., None]), -8, 7).astype(np.int8).reshape(rows, columns)
    nibbles = q.view(np.uint8) & 15
    before = np.linspace(0.5, 1.5, columns, dtype=np.float32)
    dequantized = (q.reshape(groups.shape) * scale[..., None]).reshape(rows, columns) * before
    packed = nibbles[0::2] | (nibbles[1::2] << 4)
    return {"weight": packed, "weight_scale": scale, "pre_quant_scale": before}, dequantized


@pytest.mark.parametrize("pack", [int8, int4])
def test_quantized_weights_equal_their_dequantized_twin_and_stay_compressed(pack: Any, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Llama", {}, "float32")
    stored, twin = quantized(folder, tmp_path, pack)
    assert_same(ir_logits(stored, prompts(), tmp_path / "ir"), reference(twin, prompts()))
    text = (tmp_path / "ir" / "openvino_model.xml").read_text()
    assert f'element_type="{"i8" if pack is int8 else "i4"}"' in text
    float_bytes = (folder / "model.safetensors").stat().st_size
    assert (tmp_path / "ir" / "openvino_model.bin").stat().st_size < 0.7 * float_bytes


def test_the_plugin_keeps_int8_compressed(tmp_path: Path) -> None:
    stored, _ = quantized(make(tmp_path / "model", "Llama", {}, "float32"), tmp_path, int8)
    write_ir(stored, config_of(json.loads((stored / "config.json").read_text())), tmp_path)
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    runtime = openvino.Core().compile_model(tmp_path / "openvino_model.xml", "CPU", options).get_runtime_model()
    products = [node for node in runtime.get_ops() if node.get_rt_info()["layerType"].value == "FullyConnected"]
    weights = [node.input_value(1).get_element_type().get_type_name() for node in products]
    assert weights.count("i8") >= 2 * 7 - 2 * 4  # q, k, v and gate, up may be fused into one


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


def test_refuses_a_bias_that_the_family_does_not_use(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "Llama", {"attention_bias": True})
    raw = json.loads((folder / "config.json").read_text()) | {"attention_bias": False}
    with pytest.raises(SpecError, match="bias"):
        write_ir(folder, config_of(raw), tmp_path)
