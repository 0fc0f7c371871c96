"""Every stored form of a weight computes what its dequantized twin computes, and says what OpenVINO does with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from builder.compile.openvino_ir.model import write_ir
from builder.compile.openvino_ir.weights import EXPANDED, NATIVE
from builder.families import config_of, family_of

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "float32",
    "hidden_size": 160,  # not a multiple of the FP8 block
    "intermediate_size": 288,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
Parts = dict[str, torch.Tensor]
Pack = Callable[[torch.Tensor], tuple[Parts, torch.Tensor]]
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def int8(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    scale = weight.abs().amax(1) / 127
    codes = (weight / scale[:, None]).round().to(torch.int8)
    return {"weight": codes, "weight_scale": scale}, codes * scale[:, None]


def int8_smooth(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    parts, dequantized = int8(weight)
    before = torch.linspace(0.5, 1.5, weight.shape[1])
    return {**parts, "pre_quant_scale": before, "input_scale": torch.tensor(0.1)}, dequantized * before


def packed_rows(codes: torch.Tensor) -> torch.Tensor:
    nibbles = codes.to(torch.uint8) & 15
    return nibbles[0::2] | (nibbles[1::2] << 4)


def int4(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    scale = weight.abs().amax(1) / 7
    codes = (weight / scale[:, None]).round().to(torch.int8)
    return {"weight": packed_rows(codes), "weight_scale": scale}, codes * scale[:, None]


def int4_groups(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    """Groups of 32 inputs, and a scale of the input on top."""
    groups = weight.view(len(weight), -1, 32)
    scale = groups.abs().amax(2) / 7
    codes = (groups / scale[..., None]).round().to(torch.int8)
    before = torch.linspace(0.5, 1.5, weight.shape[1])
    parts = {"weight": packed_rows(codes.view(weight.shape)), "weight_scale": scale, "pre_quant_scale": before}
    return parts, (codes * scale[..., None]).view(weight.shape) * before


def fp8(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    scale = weight.abs().max() / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale, "input_scale": torch.tensor(0.1)}, codes.float() * scale


def fp8_row(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    scale = weight.abs().amax(1) / 448
    codes = (weight / scale[:, None]).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale[:, None]


def fp8_block(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    blocks = [-(-size // 128) for size in weight.shape]
    scale = torch.rand(blocks) * 0.01 + 0.001
    whole = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: weight.shape[0], : weight.shape[1]]
    codes = (weight / whole).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale_inv": scale}, codes.float() * whole


def nvfp4(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    blocks = weight.view(len(weight), -1, 16)
    second = weight.abs().max() / (6 * 448)
    scale = (blocks.abs().amax(2) / 6 / second).to(torch.float8_e4m3fn)
    whole = (scale.float() * second)[..., None]
    codes = ((blocks / whole).abs()[..., None] - E2M1).abs().argmin(-1)
    values = E2M1[codes] * blocks.sign()
    codes = (codes + 8 * (blocks < 0)).to(torch.uint8).view(weight.shape)
    parts = {"weight": codes[:, 0::2] | (codes[:, 1::2] << 4), "weight_scale": scale, "weight_scale_2": second}
    return parts, (values * whole).view(weight.shape)


FORMS: list[tuple[Pack, str, str, str, float]] = [  # what the .bin may take of the size in float32
    (int8, "int8", NATIVE, "i8", 0.45),
    (int8_smooth, "int8", NATIVE, "i8", 0.45),
    (int4, "int4", NATIVE, "i4", 0.35),
    (int4_groups, "int4", NATIVE, "i4", 0.4),
    (fp8, "fp8", EXPANDED, "f8e4m3", 0.45),
    (fp8_row, "fp8_row", EXPANDED, "f8e4m3", 0.45),
    (fp8_block, "fp8_block", EXPANDED, "f8e4m3", 0.45),
    (nvfp4, "nvfp4", NATIVE, "f4e2m1", 0.4),
]


def checkpoints(folder: Path, pack: Pack) -> tuple[Path, Path]:
    """A model with its linears through `pack`, and the same with what that stands for in float32."""
    generator = torch.Generator().manual_seed(3)
    config = config_of(CONFIG)
    family = family_of(config.architecture)
    stored: Parts = {}
    twin: Parts = {}
    for name, shape in family.shapes(config).items():
        weight = torch.randn(shape, generator=generator) * 0.2 + ("norm" in name)
        if name not in family.linear_names(config):
            stored[name] = twin[name] = weight
            continue
        parts, twin[name] = pack(weight)
        stored |= {f"{name.removesuffix('weight')}{role}": part.contiguous() for role, part in parts.items()}
    for target, tensors in ((folder / "stored", stored), (folder / "twin", twin)):
        target.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors")
        (target / "config.json").write_text(json.dumps(CONFIG))
    return folder / "stored", folder / "twin"


@pytest.mark.parametrize(("pack", "name", "held", "element", "share"), FORMS)
def test_computes_what_its_dequantized_twin_computes(
    pack: Pack, name: str, held: str, element: str, share: float, ir_logits: Any, tmp_path: Path
) -> None:
    stored, twin = checkpoints(tmp_path, pack)
    ids = np.random.default_rng(1).integers(0, CONFIG["vocab_size"], (3, 40))
    actual, expected = ir_logits(stored, ids, tmp_path / "ir"), ir_logits(twin, ids, tmp_path / "twin-ir")
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()
    assert f'element_type="{element}"' in (tmp_path / "ir" / "openvino_model.xml").read_text()
    sizes = [(tmp_path / folder / "openvino_model.bin").stat().st_size for folder in ("ir", "twin-ir")]
    assert sizes[0] < share * sizes[1]
    assert not {path.name for path in (tmp_path / "ir").iterdir()} - {"openvino_model.xml", "openvino_model.bin"}

    (tmp_path / "again").mkdir()
    assert write_ir(stored, config_of(CONFIG), tmp_path / "again") == {name: held, "float": EXPANDED}


@pytest.mark.parametrize(("pack", "element"), [(int8, "i8"), (int4_groups, "i4"), (nvfp4, "f4e2m1"), (fp8, "f32")])
def test_the_plugin_holds_weights_as_is_said(pack: Pack, element: str, runtime_types: Any, tmp_path: Path) -> None:
    """`native` and `expanded` are claims about OpenVINO, so OpenVINO is asked."""
    stored, _ = checkpoints(tmp_path, pack)
    types = runtime_types(stored, tmp_path / "ir")
    assert types.count(element) >= 2 * 7 - 2 * 3  # q, k, v and gate, up may be fused into one
