"""The weight behind the parts of every format, against the formula written out element by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from builder.quantize.formats import FORMATS, Format
from builder.quantize.numerics import dequantize

DTYPES = {
    "I8": torch.int8,
    "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F32": torch.float32,
    None: torch.bfloat16,
}
MAGNITUDES = (0, 0.5, 1, 1.5, 2, 3, 4, 6)


def make_parts(form: Format, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Random parts, of every code that a format has but NaN."""
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    made: dict[str, torch.Tensor] = {}
    for role, part in form.parts.items():
        shape, dtype = part.shape(rows, columns), DTYPES[part.dtype]
        if dtype in (torch.float32, torch.bfloat16):
            made[role] = (torch.rand(shape, generator=generator) + 0.1).to(dtype)
        else:
            codes = torch.randint(0, 127 if dtype == torch.float8_e4m3fn else 256, shape, generator=generator)
            made[role] = codes.to(torch.uint8).view(dtype)
    return made


def element(form: Format, parts: Mapping[str, torch.Tensor], row: int, column: int) -> float:
    """The code at one place times the scales that stand for it, in exact arithmetic of Python."""
    stored, weight = form.parts["weight"], parts["weight"]
    value: float
    if stored.rows == 2:
        nibble = int(weight[row // 2, column]) >> (4 * (row % 2)) & 15
        value = nibble - 16 if nibble > 7 else nibble
    elif stored.columns == 2:
        nibble = int(weight[row, column // 2]) >> (4 * (column % 2)) & 15
        value = MAGNITUDES[nibble % 8] * (-1 if nibble > 7 else 1)
    else:
        value = float(weight[row, column])
    for role, part in form.parts.items():
        if role in ("weight", "input_scale") or (role == "weight_scale_2" and form.name != "nvfp4"):
            continue
        places = ((row, part.rows), (column, part.columns))
        value *= float(parts[role][tuple(place // shared for place, shared in places if shared is not None)])
    return value


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rows", "columns"), [(2, 64), (130, 192), (384, 320)])
def test_every_format(name: str, rows: int, columns: int) -> None:
    form = FORMATS[name].of_group(64) if "group" in name else FORMATS[name]
    parts: dict[Any, torch.Tensor] = make_parts(form, rows, columns)
    weight = dequantize(form, parts)
    assert weight.dtype == torch.float32
    assert weight.shape == (rows, columns)
    for row in {0, 1, rows // 2, rows - 2, rows - 1}:
        for column in {0, 1, 17, 63, columns // 2, columns - 1}:
            assert float(weight[row, column]) == pytest.approx(element(form, parts, row, column), rel=1e-6)


def test_the_scale_of_the_input_can_be_left_out() -> None:
    form = FORMATS["int4_group"].of_group(64)
    parts: dict[Any, torch.Tensor] = make_parts(form, 4, 128)
    scaled = dequantize(form, parts, scaled_input=True)
    assert torch.equal(scaled * parts["pre_quant_scale"].float(), dequantize(form, parts))
    folded = {role: part for role, part in parts.items() if role != "pre_quant_scale"}
    assert torch.equal(dequantize(form.without("pre_quant_scale"), folded), scaled)


def test_parts_as_the_engine_layout_holds_them() -> None:
    """Packed INT4 as signed bytes, scalars with one axis."""
    for name in ("w4a8_group", "fp8_tensor", "nvfp4"):
        form = FORMATS[name].of_group(64) if "group" in name else FORMATS[name]
        parts: dict[Any, torch.Tensor] = make_parts(form, 4, 128)
        engine = {role: part.view(1) if part.ndim == 0 else part for role, part in parts.items()}
        engine["weight"] = parts["weight"].view(torch.int8)
        assert torch.equal(dequantize(form, engine), dequantize(form, parts))


def test_the_parts_stay_as_they_are() -> None:
    for name in ("plain", "nvfp4"):
        parts: dict[Any, torch.Tensor] = make_parts(FORMATS[name], 4, 128)
        before = {role: part.flatten().view(torch.uint8).clone() for role, part in parts.items()}
        dequantize(FORMATS[name], parts)
        assert all(torch.equal(part.flatten().view(torch.uint8), before[role]) for role, part in parts.items())
