"""NVFP4 against a search through all of its sixteen values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from builder.quantize.formats import FORMATS
from builder.quantize.numerics import dequantize, e2m1, nvfp4

MAGNITUDES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
BOUNDS = (MAGNITUDES[1:] + MAGNITUDES[:-1]) / 2
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)


def read(codes: torch.Tensor, scale: torch.Tensor, scale_2: torch.Tensor) -> torch.Tensor:
    return dequantize(FORMATS["nvfp4"], {"weight": codes, "weight_scale": scale, "weight_scale_2": scale_2})


def test_every_code_reads_as_the_standard_says() -> None:
    packed = torch.arange(256, dtype=torch.uint8).view(1, 256)
    low, high = packed[0] & 15, packed[0] >> 4
    signed = torch.cat((MAGNITUDES, -MAGNITUDES))
    values = e2m1.decode(packed).view(256, 2)
    assert torch.equal(values[:, 0], signed[low.long()])
    assert torch.equal(values[:, 1], signed[high.long()])


def test_codes_are_the_nearest_and_ties_go_to_the_even_one() -> None:
    just = torch.tensor([-1.0, 1.0])
    around = torch.cat([torch.nextafter(BOUNDS, side.expand(7) * 9) for side in just])
    values = torch.cat((BOUNDS, around, torch.linspace(0.001, 8, 4001), torch.tensor([1e9, 1e-45])))
    distance = (values[:, None].double() - MAGNITUDES).abs()
    nearest = distance.argmin(dim=1)
    tie = (distance == distance.min(dim=1, keepdim=True).values).sum(dim=1) == 2
    expected = torch.where(tie, nearest + nearest % 2, nearest).to(torch.int8)
    assert torch.equal(e2m1.encode(values), expected)
    assert torch.equal(e2m1.encode(-values), expected + 8)
    assert torch.equal(e2m1.round_magnitudes(values.clone()), MAGNITUDES[expected.long()])


def test_minus_zero_has_no_sign() -> None:
    assert e2m1.encode(torch.tensor([-0.0, 0.0])).tolist() == [0, 0]


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.just(32)), elements=FLOATS))
def test_any_finite_weight_is_within_half_a_step(weight: np.ndarray[Any, Any]) -> None:
    """Of the two steps of 2 at the top, as far as the tensor's scale reaches down: E4M3 ends at 2^-9."""
    values = torch.from_numpy(weight)
    scale_2 = nvfp4.tensor_scale(values.abs().amax())
    codes, scale = nvfp4.quantize(values, scale_2)
    steps = (scale.float() * scale_2).double().repeat_interleave(16, dim=1)
    made = e2m1.decode(codes).double()
    error = (made * steps - values.double()).abs()
    magnitude = made.abs()
    half = torch.where(magnitude < 2, 0.25, torch.where(magnitude < 4, 0.5, 1.0))
    at_bound = torch.where(magnitude == 2, 0.5, torch.where(magnitude == 4, 1.0, half))
    assert (error <= steps * torch.maximum(half, at_bound) * (1 + 1e-5)).all()


def test_zeros_stay_zeros_and_no_scale_is_zero() -> None:
    weight = torch.zeros(2, 32)
    weight[0, :16] = 1.0
    for values in (weight, torch.zeros(2, 32)):
        scale_2 = nvfp4.tensor_scale(values.abs().amax())
        codes, scale = nvfp4.quantize(values, scale_2)
        assert (scale.float() > 0).all()
        assert torch.equal(read(codes, scale, scale_2), values)


@pytest.mark.parametrize("exponent", range(1, 24))
def test_blocks_far_smaller_than_the_largest_are_cut_by_a_twelfth_at_most(exponent: int) -> None:
    """Where E4M3 has few bits left, its scale is rounded up."""
    small = 2688 * 2.0**-exponent * 1.37
    weight = torch.full((1, 32), 2688.0)
    weight[0, 16:] = torch.linspace(-small, small, 16)
    codes, scale = nvfp4.quantize(weight, nvfp4.tensor_scale(weight.abs().amax()))
    made = read(codes, scale, torch.tensor(1.0))[0, 16:]
    step = scale[0, 1].float() * 2
    assert ((made - weight[0, 16:]).abs() <= step / 2).all()


def test_inputs_are_rounded_like_weights_where_their_scales_agree() -> None:
    values = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    scale_2 = nvfp4.tensor_scale(values.abs().amax())
    rounded = nvfp4.fake_quantize(values, scale_2)
    assert torch.allclose(rounded, read(*nvfp4.quantize(values, scale_2), scale_2), rtol=1e-6, atol=0)
    assert not nvfp4.fake_quantize(torch.zeros(1, 16), scale_2).any()
    out_of_range = nvfp4.fake_quantize(torch.full((1, 16), 1e6), scale_2)
    assert torch.allclose(out_of_range, 2688 * scale_2)
