"""Rounding to INT8: never off by more than half a step, whatever the row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file

from builder.quantize import quantize
from builder.quantize.int8_wo import apply
from builder.quantize.raw import RawTensor
from builder.quantize.reader import open_checkpoint
from trtllm_kit.console import Silent
from trtllm_kit.errors import SpecError

LARGEST = float(np.finfo(np.float32).max)


def quantize_rows(weight: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(codes, scales) of a float32 weight."""
    made = apply("w", RawTensor("F32", weight.view(np.uint32)), "bfloat16")
    return made[""].array, made["_scale"].array.view(np.float32)


def assert_within_half_a_step(weight: np.ndarray[Any, Any]) -> None:
    codes, scales = quantize_rows(weight)
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max() <= 127
    assert (scales > 0).all()
    assert np.isfinite(scales).all()
    exact, step = weight.astype(np.float64), scales.astype(np.float64)[:, None]
    # The division rounds once in float32, which moves a tie by at most 127 × 2^-24 of a step.
    assert (np.abs(codes * step - exact) <= step * (0.5 + 1e-5)).all()
    assert not (codes * step)[(weight == 0).all(axis=1)].any()


@settings(max_examples=200, deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True),
    )
)
def test_any_finite_weight(weight: np.ndarray[Any, Any]) -> None:
    assert_within_half_a_step(weight)


@pytest.mark.parametrize(
    "row",
    [
        [0.0] * 8,
        [-0.0] * 8,
        [1.0] * 8,
        [-3.5] * 8,
        [1e-45] * 8,
        [1e-45, -1e-45, 0, 0, 0, 0, 0, 0],
        [1e-38, 9.2e-41, 0, 0, 0, 0, 0, 0],
        [LARGEST, -LARGEST, 1, 0, 0, 0, 0, 0],
        [127, 126.5, 0.5, -0.5, 1.5, -1.5, 2.5, 63.5],
    ],
)
def test_rows_at_the_edges(row: list[float]) -> None:
    assert_within_half_a_step(np.array([row, [1, 2, 3, 4, 5, 6, 7, 8]], dtype=np.float32))


def test_ties_go_to_even_and_the_largest_weight_to_127() -> None:
    codes, scales = quantize_rows(np.array([[127, 0.5, 1.5, -0.5, -2.5, -127]], dtype=np.float32))
    assert scales.tolist() == [1.0]
    assert codes.tolist() == [[127, 0, 2, 0, -2, -127]]


def test_a_row_of_zeros_has_a_scale_that_can_be_divided_by() -> None:
    codes, scales = quantize_rows(np.zeros((2, 4), dtype=np.float32))
    assert scales.tolist() == [1.0, 1.0]
    assert not codes.any()


def test_a_weight_of_many_blocks_is_as_if_done_at_once() -> None:
    weight = torch.randn(3000, 257, generator=torch.Generator().manual_seed(3))
    codes, scales = quantize_rows(weight.numpy())
    scale = weight.abs().amax(dim=1) / 127
    assert torch.equal(torch.from_numpy(scales.copy()), scale)
    assert torch.equal(torch.from_numpy(codes), (weight / scale[:, None]).round().to(torch.int8))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    weight = np.ones((5, 7), dtype=np.float32)
    weight[3, 2] = bad
    with pytest.raises(SpecError, match=r"^w holds NaN or infinite"):
        quantize_rows(weight)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_whole_model_reads_back_within_half_a_step(
    dtype: str, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Only the linears of the decoder layers are quantized; all else is the checkpoint, at most cast to bfloat16."""
    model = make_model(torch_dtype=dtype, architectures=["Qwen2ForCausalLM"], model_type="qwen2", head_dim=None)
    out = tmp_path / "out"
    out.mkdir()
    quantize(model.fetch(), scheme="int8_wo", layout="hf", tp_size=1, pp_size=1, out=out, talk=Silent())

    reader, written = open_checkpoint(out), load_file(out / "model.safetensors")
    half = torch.bfloat16 if dtype == "float32" else getattr(torch, dtype)
    assert set(reader.names()) == set(model.tensors)
    for name, tensor in model.tensors.items():
        values = torch.from_numpy(reader.tensor(name))
        if name.endswith("proj.weight"):
            assert written[name].dtype == torch.int8
            assert ((values - tensor.float()).abs() <= written[f"{name}_scale"][:, None] * 0.50001).all(), name
        else:
            assert written[name].dtype == half
            assert torch.equal(values, tensor.to(half).float()), name
