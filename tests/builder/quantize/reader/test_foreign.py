"""Checkpoints of other tools, packed here as their own documentation says, read back to what was packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from builder.quantize.formats import Format
from builder.quantize.reader import CheckpointReader, open_checkpoint
from trtllm_kit.errors import SpecError

Make = Callable[..., Any]
Tensors = dict[str, torch.Tensor]
LINEAR = "model.layers.1.mlp.up_proj"  # [128, 64]


def reader_of(make_model: Make, method: str, stored: Tensors) -> CheckpointReader:
    """A model one linear of which is `stored`, in a folder of its own."""
    model = make_model()
    del model.tensors[f"{LINEAR}.weight"]
    model.tensors.update({f"{LINEAR}.{name}": tensor.contiguous() for name, tensor in stored.items()})
    model.config["quantization_config"] = {"quant_method": method}
    model.save()
    return open_checkpoint(model.path)


def assert_reads(reader: CheckpointReader, weight: torch.Tensor) -> Format:
    assert torch.equal(torch.from_numpy(reader.tensor(f"{LINEAR}.weight")), weight)
    other = "model.layers.0.mlp.up_proj.weight"
    assert reader.tensor(other).shape == (128, 64)
    assert reader.format(other.removesuffix(".weight")).name == "plain"
    return reader.format(LINEAR)


def pack(codes: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Codes 0..15 along the last axis, nibble i of each int32 the neighbour `order[i]`."""
    groups = codes.to(torch.int64).view(codes.shape[0], -1, 8)
    packed = sum(groups[:, :, neighbour] << 4 * nibble for nibble, neighbour in enumerate(order))
    assert isinstance(packed, torch.Tensor)
    return packed.to(torch.int32)  # the highest nibble may set the sign


def random_codes(rows: int, columns: int, low: int, high: int) -> torch.Tensor:
    return torch.randint(low, high, (rows, columns), generator=torch.Generator().manual_seed(3))


def test_autoawq(make_model: Make) -> None:
    """GEMM layout: qweight [in, out / 8] in the order of AutoAWQ's `order_map`, zeros alike, scales [groups, out]."""
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    codes, zeros = random_codes(64, 128, 0, 16), random_codes(2, 128, 0, 16)
    scales = torch.rand(2, 128).half()
    reader = reader_of(
        make_model, "awq", {"qweight": pack(codes, order), "qzeros": pack(zeros, order), "scales": scales}
    )
    weight = (codes - zeros.repeat_interleave(32, 0)).float() * scales.float().repeat_interleave(32, 0)
    assert assert_reads(reader, weight.T).name == "plain"  # no format of ours has zero points
    assert reader.layout == "awq"


@pytest.mark.parametrize("groups", [1, 2])
def test_compressed_tensors_packed_int4(groups: int, make_model: Make) -> None:
    codes, scale = random_codes(128, 64, -8, 8), torch.rand(128, groups).bfloat16()
    packed = pack(codes + 8, tuple(range(8)))
    stored = {"weight_packed": packed, "weight_scale": scale, "weight_shape": torch.tensor([128, 64])}
    found = assert_reads(
        reader_of(make_model, "compressed-tensors", stored),
        codes.float() * scale.float().repeat_interleave(64 // groups, 1),
    )
    assert (found.name, found.group_size) == (("int4_row", None) if groups == 1 else ("int4_group", 32))


def test_compressed_tensors_int8(make_model: Make) -> None:
    codes, scale = random_codes(128, 64, -128, 128).to(torch.int8), torch.rand(128, 1).bfloat16()
    found = assert_reads(
        reader_of(make_model, "compressed-tensors", {"weight": codes, "weight_scale": scale}),
        codes.float() * scale.float(),
    )
    assert (found.name, found.activation) == ("int8_row", "half")


@pytest.mark.parametrize(
    ("scale", "static", "expected"),
    [
        (torch.rand(128, 1).bfloat16(), False, ("fp8_row", "fp8_token")),
        (torch.rand(1), False, ("fp8_tensor", "fp8_token")),
        (torch.rand(1), True, ("fp8_tensor", "fp8_tensor")),
    ],
)
def test_compressed_tensors_fp8(scale: torch.Tensor, static: bool, expected: tuple[str, str], make_model: Make) -> None:
    codes = torch.randn(128, 64).to(torch.float8_e4m3fn)
    stored = {"weight": codes, "weight_scale": scale, **({"input_scale": torch.tensor([0.5])} if static else {})}
    reader = reader_of(make_model, "compressed-tensors", stored)
    found = assert_reads(reader, codes.float() * scale.float())
    assert (found.name, found.activation) == expected
    assert ("input_scale" in reader.linear(LINEAR)[1]) == static


def test_fp8_blocks_as_deepseek_publishes_them(make_model: Make) -> None:
    model = make_model(intermediate_size=320)
    weight = f"{LINEAR}.weight"
    codes = torch.randn(320, 64).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 1)
    model.tensors.update({weight: codes, f"{weight}_scale_inv": scale})
    model.config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    model.save()
    reader = open_checkpoint(model.path)
    rows = scale.repeat_interleave(128, 0)[:320]
    assert torch.equal(torch.from_numpy(reader.tensor(weight)), codes.float() * rows)
    assert reader.format(LINEAR).name == "fp8_block"


def test_what_is_of_no_known_format_is_refused_by_name(make_model: Make) -> None:
    packed = pack(random_codes(128, 64, 0, 16), tuple(range(8)))
    stored = {"weight_packed": packed, "weight_scale": torch.rand(128, 2), "weight_shape": torch.tensor([128, 64])}
    reader = reader_of(make_model, "compressed-tensors", {**stored, "weight_zero_point": torch.zeros(16, 2).int()})
    with pytest.raises(SpecError, match=r"model\.layers\.1\.mlp\.up_proj consists of .*weight_zero_point I32"):
        reader.tensor(f"{LINEAR}.weight")


def test_a_modelopt_checkpoint_with_a_part_missing_is_refused_by_name(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    model.tensors[f"{LINEAR}.weight"] = torch.zeros(128, 64).to(torch.float8_e4m3fn)
    model.save()
    save_file(model.tensors, model.path / "model.safetensors")
    (model.path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    reader = open_checkpoint(model.path)
    assert reader.quant_algo == "FP8"
    with pytest.raises(SpecError, match=r"up_proj consists of weight F8_E4M3 \[128, 64\]"):
        reader.format(LINEAR)
