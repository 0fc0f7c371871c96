"""FP8 E4M3 against torch's own casts, and never off by more than half the distance between its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from builder.quantize.numerics import fp8

ALL = torch.arange(256, dtype=torch.uint8)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)


def assert_within_half_a_step(weight: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor) -> None:
    assert scale.isfinite().all() and (scale > 0).all()
    steps = codes.float().double()
    assert steps.isfinite().all()
    magnitude = steps.abs().clamp_min(2.0**-6)
    distance = 2.0 ** (magnitude.log2().floor() - 3)  # to the next number, from 2^-6 down always 2^-9
    error = (steps - weight.double() / scale.double()).abs()
    # A power of two is nearer to the number below it, and the division rounds once in float32.
    assert (error <= distance * (0.5 + 1e-5)).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_every_code_reads_as_torch_reads_it(dtype: torch.dtype) -> None:
    values, expected = fp8.decode(ALL.view(dtype)), ALL.view(torch.float8_e4m3fn).float()
    number = ~expected.isnan()
    assert number.sum() == 254
    assert torch.equal(values[number].view(torch.int32), expected[number].view(torch.int32))
    assert values[~number].isnan().all()


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=FLOATS))
def test_any_finite_rows(weight: np.ndarray[Any, Any]) -> None:
    codes, scale = fp8.quantize_rows(torch.from_numpy(weight))
    assert_within_half_a_step(torch.from_numpy(weight), codes, scale[:, None])


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (256, 384), (130, 257), (5, 7), (128, 129)])
def test_blocks_have_a_scale_each_and_the_last_may_be_short(rows: int, columns: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * torch.arange(1, columns + 1)
    codes, scale = fp8.quantize_blocks(weight)
    assert scale.shape == (-(-rows // 128), -(-columns // 128))
    for row in range(scale.shape[0]):
        for column in range(scale.shape[1]):
            place = slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128)
            expected = weight[place].abs().max() / 448
            assert scale[row, column] == expected
            assert torch.equal(codes[place].float(), (weight[place] / expected).to(torch.float8_e4m3fn).float())


def test_zero_blocks_have_the_scale_one() -> None:
    codes, scale = fp8.quantize_blocks(torch.zeros(4, 130))
    assert scale.tolist() == [[1.0, 1.0]]
    assert not codes.float().any()
