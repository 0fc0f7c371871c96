"""INT8 and INT4: never off by more than half a step, whatever the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from builder.quantize.numerics import integers

LARGEST = float(np.finfo(np.float32).max)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
EDGES = [
    [0.0] * 8,
    [-0.0] * 8,
    [1.0] * 8,
    [-3.5] * 8,
    [1e-45] * 8,
    [1e-45, -1e-45, 0, 0, 0, 0, 0, 0],
    [1e-38, 9.2e-41, 0, 0, 0, 0, 0, 0],
    [LARGEST, -LARGEST, 1, 0, 0, 0, 0, 0],
    [127, 126.5, 0.5, -0.5, 1.5, -1.5, 2.5, 63.5],
]


def assert_within_half_a_step(weight: torch.Tensor, codes: torch.Tensor, step: torch.Tensor, largest: int) -> None:
    """`step` is one for each weight."""
    assert codes.dtype == torch.int8
    assert codes.int().abs().max() <= largest
    assert step.isfinite().all() and (step > 0).all()
    values, exact, step = codes.double() * step.double(), weight.double(), step.double()
    # The division rounds once in float32, which moves a tie by at most 127 × 2^-24 of a step.
    assert ((values - exact).abs() <= step * (0.5 + 1e-5)).all()
    assert not values[(weight == 0).all(dim=1)].any()


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=FLOATS))
def test_any_finite_rows(weight: np.ndarray[Any, Any]) -> None:
    for largest in (127, 7):
        codes, scale = integers.quantize_rows(torch.from_numpy(weight), largest)
        assert_within_half_a_step(torch.from_numpy(weight), codes, scale[:, None], largest)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.just(8)), elements=FLOATS))
def test_any_finite_groups(weight: np.ndarray[Any, Any]) -> None:
    values = torch.from_numpy(weight)
    scale = integers.group_scales(values, 4)
    codes = integers.quantize_groups(values, scale)
    assert_within_half_a_step(values, codes, scale.repeat_interleave(4, dim=1), 7)


@pytest.mark.parametrize("row", EDGES)
def test_rows_at_the_edges(row: list[float]) -> None:
    weight = torch.tensor([row, [1, 2, 3, 4, 5, 6, 7, 8]])
    codes, scale = integers.quantize_rows(weight)
    assert_within_half_a_step(weight, codes, scale[:, None], 127)


def test_ties_go_to_even_and_the_largest_weight_to_127() -> None:
    codes, scale = integers.quantize_rows(torch.tensor([[127, 0.5, 1.5, -0.5, -2.5, -127]]))
    assert scale.tolist() == [1.0]
    assert codes.tolist() == [[127, 0, 2, 0, -2, -127]]


def test_zeros_have_a_scale_that_can_be_divided_by() -> None:
    codes, scale = integers.quantize_rows(torch.zeros(2, 4))
    assert scale.tolist() == [1.0, 1.0]
    assert not codes.any()


def test_clipped_groups_use_all_sixteen_codes() -> None:
    weight = torch.tensor([[-9.0, -8.0, -7.5, 6.5, 7.0, 9.0, 0.0, 0.5]])
    assert integers.quantize_groups(weight, torch.tensor([[1.0]])).tolist() == [[-8, -8, -8, 6, 7, 7, 0, 0]]


@settings(max_examples=50, deadline=None)
@given(arrays(np.int8, st.tuples(st.sampled_from((2, 4, 6)), st.integers(1, 5)), elements=st.integers(-8, 7)))
def test_packing_is_undone(codes: np.ndarray[Any, Any]) -> None:
    packed = integers.pack_rows(torch.from_numpy(codes))
    assert packed.dtype == torch.uint8
    assert torch.equal(integers.unpack_rows(packed), torch.from_numpy(codes))
    assert torch.equal(integers.unpack_rows(packed.view(torch.int8)), torch.from_numpy(codes))


def test_the_first_of_two_rows_is_in_the_low_nibble() -> None:
    assert integers.pack_rows(torch.tensor([[1, -8], [-1, 7]], dtype=torch.int8)).tolist() == [[0xF1, 0x78]]
