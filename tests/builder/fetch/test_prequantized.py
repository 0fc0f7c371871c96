"""Checkpoints that others quantized: recognised, proven whole, passed on as they are, and computed with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builder.checkpoint import Checkpoint
from builder.compile.openvino_ir.model import write_ir
from builder.compile.openvino_ir.weights import DEQUANTIZED
from builder.digests import DigestCache
from builder.families import family_of
from builder.fetch import fetch
from builder.prequantized import check_as_it_is
from builder.quantize import quantize
from builder.quantize.passthrough import pass_through, recipe_of
from builder.quantize.reader import open_checkpoint
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent
from trtllm_kit.errors import SpecError
from trtllm_kit.files import sha256_file

GOLDEN = Path(__file__).parents[2] / "golden" / "modelopt"
MODELOPT = {
    "fp8": ("fp8", "none"),
    "fp8_kv": ("fp8", "fp8"),
    "fp8_pc_pt": ("fp8_pc_pt", "none"),
    "int4_awq": ("int4_awq", "none"),
    "int8_sq": ("int8_sq", "none"),
    "int8_wo": ("int8_wo", "none"),
    "nvfp4": ("nvfp4", "none"),
    "w4a8_awq": ("w4a8_awq", "none"),
}
Make = Callable[..., Any]
Tensors = dict[str, torch.Tensor]


def tokenizer(folder: Path) -> None:
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    vocab = {f"<{number}>": number for number in range(size)}
    tree = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tree))


def golden(name: str, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(GOLDEN / f"hf-{name}", tmp_path / "golden"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer(folder)
    return folder


def fetched(folder: Path) -> Checkpoint:
    digests = DigestCache(folder.parent / "digests.json")
    return fetch(str(folder), trust_remote_code=False, digests=digests, talk=Silent())


@pytest.mark.parametrize("name", MODELOPT)
def test_an_export_of_modelopt_is_recognised_and_linked_as_it_is(name: str, tmp_path: Path) -> None:
    folder = golden(name, tmp_path)
    checkpoint = fetched(folder)
    assert checkpoint.quantized is not None
    assert (checkpoint.quantized.precision, checkpoint.quantized.kv_cache) == MODELOPT[name]
    assert "hf_quant_config.json" in checkpoint.files

    out = tmp_path / "out"
    out.mkdir()
    pass_through(checkpoint, layout="hf", tp_size=1, pp_size=1, out=out, talk=Silent())
    assert {path.name: sha256_file(path) for path in out.iterdir()} == dict(checkpoint.files)


def test_an_unquantized_export_of_modelopt_is_a_checkpoint_like_any_other(tmp_path: Path) -> None:
    assert fetched(golden("bf16", tmp_path)).quantized is None


def test_the_file_that_tensorrt_llm_looks_for_is_written_where_only_the_config_says_it(tmp_path: Path) -> None:
    folder = golden("fp8_kv", tmp_path)
    said = json.loads((folder / "hf_quant_config.json").read_text())["quantization"]
    (folder / "hf_quant_config.json").unlink()
    out = tmp_path / "out"
    out.mkdir()
    pass_through(fetched(folder), layout="hf", tp_size=1, pp_size=1, out=out, talk=Silent())
    assert json.loads((out / "hf_quant_config.json").read_text())["quantization"] == said


@pytest.mark.parametrize("name", ["fp8_pc_pt", "nvfp4"])
@pytest.mark.parametrize("tp_size", [1, 2])
def test_parts_that_an_engine_can_fuse_are_split_among_ranks(name: str, tp_size: int, tmp_path: Path) -> None:
    """The two layouts stand for the same weights to the bit."""
    folder, out = golden(name, tmp_path), tmp_path / "out"
    checkpoint = fetched(folder)
    out.mkdir()
    pass_through(checkpoint, layout="trtllm", tp_size=tp_size, pp_size=1, out=out, talk=Silent())
    theirs, ours = open_checkpoint(folder), open_checkpoint(out)
    for weight in sorted(theirs.linears):
        assert (ours.tensor(weight) == theirs.tensor(weight)).all()


@pytest.mark.parametrize("name", ["fp8", "int4_awq", "w4a8_awq", "int8_wo"])
def test_parts_that_an_engine_cannot_fuse_are_refused(name: str, tmp_path: Path) -> None:
    checkpoint = fetched(golden(name, tmp_path))
    (tmp_path / "out").mkdir()
    with pytest.raises(SpecError, match="quantizing it again would lose more"):
        pass_through(checkpoint, layout="trtllm", tp_size=1, pp_size=1, out=tmp_path / "out", talk=Silent())


def test_a_checkpoint_whose_layers_differ_is_recognised_layer_by_layer(make_model: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    layers = {"*.layers.0.mlp.*": "int4_wo", "*.self_attn.*": "fp8_pc_pt"}
    recipe = Recipe(precision="mixed", layers=layers)
    quantize(make_model().fetch(), recipe, layout="hf", tp_size=1, pp_size=1, out=out, talk=Silent())
    found = fetched(out).quantized
    assert found is not None
    assert found.precision == "mixed"
    assert found.layers["model.layers.0.mlp.up_proj"] == "int4_wo"
    assert found.layers["model.layers.1.self_attn.k_proj"] == "fp8_pc_pt"
    assert "model.layers.1.mlp.up_proj" not in found.layers


def test_layers_that_were_left_out_may_have_scales_of_keys_and_values(make_model: Make) -> None:
    model = make_model()
    whole = dict(model.tensors)
    settings = {
        "quant_method": "modelopt",
        "quant_algo": "W8A16",
        "kv_cache_quant_algo": "FP8",
        "ignore": ["*self_attn*"],
    }
    foreign(model, int8, settings)
    for name in [name for name in model.tensors if "self_attn" in name]:
        del model.tensors[name]
    model.tensors |= {name: tensor for name, tensor in whole.items() if "self_attn" in name}
    for layer in range(2):
        attention = f"model.layers.{layer}.self_attn"
        model.tensors |= {f"{attention}.{part}_proj.{part}_scale": torch.tensor(1.0) for part in "kv"}
    model.save()
    checkpoint = model.fetch()
    assert set(checkpoint.tensors) == set(model.tensors)
    assert checkpoint.quantized is not None
    assert checkpoint.quantized.kv_cache == "fp8"
    assert "model.layers.1.self_attn.k_proj" in recipe_of(checkpoint, checkpoint.quantized).exclude


def test_a_second_quantization_is_refused(tmp_path: Path) -> None:
    found = fetched(golden("int8_sq", tmp_path)).quantized
    assert found is not None
    check_as_it_is(found, "int8_sq", "cpu")
    with pytest.raises(SpecError, match="quantized to int8_sq already"):
        check_as_it_is(found, "int4_awq", "cpu")
    with pytest.raises(SpecError, match="SmoothQuant") as refused:
        check_as_it_is(found, "int8_sq", "pytorch")
    assert "runtime to cpu" in refused.value.fix


def awq(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """AutoAWQ's GEMM form: transposed, groups of 32 with a zero point each, neighbours in the order 0 2 4 6 1 3 5 7."""
    columns = weight.T.contiguous()
    groups = columns.view(-1, 32, columns.shape[1])
    low, high = groups.amin(1), groups.amax(1)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales.float()).round().clamp(0, 15).int()
    codes = (groups / scales.float()[:, None] + zeros[:, None]).round().clamp(0, 15).int()

    def pack(values: torch.Tensor) -> torch.Tensor:
        eights = values.view(values.shape[0], -1, 8)
        packed = torch.zeros(eights.shape[:2], dtype=torch.int32)
        for place, source in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            packed |= eights[:, :, source] << (4 * place)
        return packed

    dequantized = ((codes - zeros[:, None]) * scales.float()[:, None]).view(columns.shape).T
    return {"qweight": pack(codes.view(columns.shape)), "qzeros": pack(zeros), "scales": scales}, dequantized


def packed_int4(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """compressed-tensors' pack-quantized: groups of 32, eight codes + 8 in an int32, the first lowest."""
    groups = weight.view(len(weight), -1, 32)
    scale = groups.abs().amax(2) / 7
    codes = (groups / scale[..., None]).round().view(weight.shape).int()
    packed = torch.zeros((len(weight), weight.shape[1] // 8), dtype=torch.int32)
    for place in range(8):
        packed |= (codes[:, place::8] + 8) << (4 * place)
    parts = {"weight_packed": packed, "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}
    return parts, (codes.view(groups.shape) * scale[..., None]).view(weight.shape)


def int8(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    parts, dequantized = int8_columns(weight)
    return {**parts, "weight_scale": parts["weight_scale"].view(-1)}, dequantized


def int8_columns(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round().to(torch.int8)
    return {"weight": codes, "weight_scale": scale}, codes * scale


def fp8_columns(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale


def fp8_blocks(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().max() / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    blocks = scale.repeat([-(-size // 128) for size in weight.shape])
    return {"weight": codes, "weight_scale_inv": blocks}, codes.float() * scale


def compressed(kind: str, bits: int, strategy: str, inputs: Any = None, **more: Any) -> dict[str, Any]:
    weights = {"type": kind, "num_bits": bits, "strategy": strategy, "symmetric": True, **more}
    groups = {"group_0": {"weights": weights, "input_activations": inputs, "targets": ["Linear"]}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}


TOKEN = {"strategy": "token", "dynamic": True}
FOREIGN: dict[str, tuple[Any, dict[str, Any], str, set[str], str]] = {
    "awq": (
        awq,
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True},
        "int4_awq",
        {"tensorrt", "pytorch"},
        "int4 with zero points",
    ),
    "pack-quantized": (
        packed_int4,
        compressed("int", 4, "group", group_size=32),
        "int4_awq",
        {"tensorrt", "pytorch"},
        "int4",
    ),
    "w8a16": (int8_columns, compressed("int", 8, "channel"), "int8_wo", {"tensorrt", "pytorch"}, "int8"),
    "w8a8": (int8_columns, compressed("int", 8, "channel", TOKEN), "int8_sq", {"tensorrt", "pytorch"}, "int8"),
    "fp8-dynamic": (fp8_columns, compressed("float", 8, "channel", TOKEN), "fp8_pc_pt", {"tensorrt"}, "fp8_row"),
    "fp8-block": (
        fp8_blocks,
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        "fp8_block",
        {"tensorrt"},
        "fp8_block",
    ),
}


def foreign(model: Any, pack: Any, settings: dict[str, Any]) -> Tensors:
    """Store the linears of a model as `pack` has it; returns what they stand for."""
    family = family_of(model.config["architectures"][0])
    twin = {name: tensor.float() for name, tensor in model.tensors.items()}
    for name in family.linear_names(model.fetch().config):
        parts, twin[name] = pack(model.tensors.pop(name).float())
        module = name.removesuffix(".weight")
        model.tensors |= {f"{module}.{suffix}": part.contiguous() for suffix, part in parts.items()}
    model.config["quantization_config"] = settings
    model.save()
    return twin


@pytest.mark.parametrize("name", FOREIGN)
def test_the_form_of_another_tool_is_recognised_and_computed_with(
    name: str, make_model: Make, ir_logits: Any, tmp_path: Path
) -> None:
    pack, settings, precision, unserved, kind = FOREIGN[name]
    model, plain = (make_model(hidden_size=160, intermediate_size=288, head_dim=24) for _ in range(2))
    plain.tensors = {key: value.contiguous() for key, value in foreign(model, pack, settings).items()}
    plain.save()

    checkpoint = model.fetch()
    assert checkpoint.quantized is not None
    assert (checkpoint.quantized.precision, set(checkpoint.quantized.unserved)) == (precision, unserved)
    ids = np.random.default_rng(1).integers(0, 50, (2, 24))
    actual, expected = ir_logits(model.path, ids, tmp_path / "ir"), ir_logits(plain.path, ids, tmp_path / "twin")
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()
    assert kind in write_ir(model.path, checkpoint.config, tmp_path)


def test_what_is_dequantized_is_called_so(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    foreign(model, awq, FOREIGN["awq"][1])
    assert write_ir(model.path, model.fetch().config, tmp_path)["int4 with zero points"] == DEQUANTIZED


def without(suffix: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        del model.tensors[next(name for name in model.tensors if name.endswith(suffix))]

    return change


def with_tensor(suffix: str, value: torch.Tensor) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.tensors[next(name for name in model.tensors if name.endswith(suffix))] = value

    return change


@pytest.mark.parametrize(
    ("damage", "happened"),
    [
        (without(".weight_scale"), "consists of weight I8"),
        (without("q_proj.weight"), "consists of weight_scale"),
        (with_tensor("q_proj.weight_scale", torch.ones(3)), "weight_scale F32 [3]"),
        (with_tensor("q_proj.weight", torch.ones(64, 64, dtype=torch.uint8)), "weight U8 [64, 64]"),
        (with_tensor("up_proj.weight", torch.ones(128, 60, dtype=torch.int8)), "weight I8 [128, 60]"),
        (with_tensor("input_layernorm.weight", torch.ones(60)), "input_layernorm.weight in model.safetensors has the"),
        (
            lambda model: model.tensors.update({"model.layers.0.mlp.up_proj.g_idx": torch.ones(2)}),
            "up_proj consists of",
        ),
    ],
)
def test_a_linear_that_is_not_whole_is_refused(damage: Any, happened: str, make_model: Make) -> None:
    model = make_model()
    foreign(model, int8_columns, compressed("int", 8, "channel"))
    damage(model)
    model.save()
    with pytest.raises(SpecError) as refused:
        model.fetch()
    assert happened in refused.value.happened
    assert refused.value.fix


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes'"),
        ({"quant_method": "modelopt", "quant_algo": "W2A2"}, "'W2A2'"),
        ({"quant_method": "awq", "bits": 3}, "AWQ of 3 bits"),
        (compressed("int", 3, "group"), "3-bit int for each group"),
        ({**compressed("int", 4, "group"), "config_groups": {}}, "0 config_groups"),
        ("awq", "quant_method None"),
    ],
)
def test_a_method_that_the_kit_does_not_know_is_refused(settings: Any, says: str, make_model: Make) -> None:
    model = make_model()
    model.config["quantization_config"] = settings
    model.save()
    with pytest.raises(SpecError, match="quantized already") as refused:
        model.fetch()
    assert says in refused.value.happened


def test_a_checkpoint_that_says_another_precision_than_it_has_is_refused(tmp_path: Path) -> None:
    folder = golden("int8_wo", tmp_path)
    shutil.copy(GOLDEN / "hf-fp8" / "hf_quant_config.json", folder)
    with pytest.raises(SpecError, match="consists of weight I8") as refused:
        fetched(folder)
    assert "in fp8" in refused.value.expected
