"""What kernels do to inputs: each kind against torch's casts, token by token."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from builder.quantize.formats import FORMATS, Activation
from builder.quantize.numerics import activations, kv

X = torch.randn(2, 5, 256, generator=torch.Generator().manual_seed(4)) * torch.linspace(0.01, 20, 256)


def fp8(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-448, 448).to(torch.float8_e4m3fn).float()


def test_half_is_left_alone() -> None:
    assert torch.equal(activations.fake_quantize("half", X), X)


def test_static_kinds_cut_what_is_out_of_range() -> None:
    scale = torch.tensor(0.05)
    assert torch.equal(activations.fake_quantize("fp8_tensor", X, scale), fp8(X / scale) * scale)
    rounded = activations.fake_quantize("int8_tensor", X, scale)
    assert torch.equal(rounded, (X / scale).round().clamp(-128, 127) * scale)
    assert rounded.max() == 127 * scale


def test_a_scale_for_each_token() -> None:
    made = activations.fake_quantize("fp8_token", X)
    for token, row in zip(X.view(-1, 256), made.view(-1, 256), strict=True):
        scale = token.abs().max() / 448
        assert torch.equal(row, fp8(token / scale) * scale)


@pytest.mark.parametrize("columns", [256, 200, 128, 100])
def test_a_scale_for_each_128_features(columns: int) -> None:
    made = activations.fake_quantize("fp8_block", X[..., :columns])
    assert made.shape == (2, 5, columns)
    for start in range(0, columns, 128):
        block = X[1, 3, start : min(start + 128, columns)]
        scale = block.abs().max() / 448
        assert torch.equal(made[1, 3, start : start + 128], fp8(block / scale) * scale)


@pytest.mark.parametrize("kind", get_args(Activation))
def test_zeros_and_the_input_itself_are_kept(kind: Activation) -> None:
    before = X.clone()
    assert not activations.fake_quantize(kind, torch.zeros(3, 128), torch.tensor(1.0)).any()
    activations.fake_quantize(kind, X, torch.tensor(0.1))
    assert torch.equal(X, before)


def test_every_format_names_a_kind_that_exists() -> None:
    for form in FORMATS.values():
        assert activations.fake_quantize(form.activation, X, torch.tensor(0.1)).shape == X.shape


@pytest.mark.parametrize(
    ("kind", "amax", "expected"),
    [
        ("fp8", (100.0, 896.0), (1.0, 2.0)),  # FP8 has no need for a scale below 1
        ("int8", (12.7, 254.0), (0.1, 2.0)),
        ("nvfp4", (26.88, 5376.0), (0.01, 2.0)),
        ("int8", (0.0, 127.0), (1.0, 1.0)),
    ],
)
def test_scales_of_the_cache(kind: str, amax: tuple[float, float], expected: tuple[float, float]) -> None:
    found = kv.scales(kind, torch.tensor(amax[0]), torch.tensor(amax[1]))
    assert [float(scale) for scale in found] == pytest.approx(expected)
    assert activations.fake_quantize(kv.rounding(kind), X, found[0]).shape == X.shape
