"""FP4 E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, two columns to a byte."""

from __future__ import annotations

from builder.quantize.problem import Tensor

LARGEST = 6.0
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def encode(values: Tensor) -> Tensor:
    """int8 codes 0..15, one an element, of float32 `values`: to nearest, ties to even, up to 6; -0.0 counts as 0."""
    import torch

    values = values + 0.0  # turns -0.0 into 0.0
    sign = (values.view(torch.int32) >> 28).to(torch.int8).bitwise_and_(8)
    return _ordinals(values.abs_()).to(torch.int8).bitwise_or_(sign)


def round_magnitudes(values: Tensor) -> Tensor:
    """The magnitudes nearest to float32 `values` of 0 and more."""
    ordinals = _ordinals(values)
    # In halves the codes count up to 4 one by one, then in steps of 2, the last of 4.
    return (ordinals + (ordinals - 4).clamp_min_(0) + 2 * (ordinals - 6).clamp_min_(0)) * 0.5


def _ordinals(values: Tensor) -> Tensor:
    """float32 0..7: which of the magnitudes is nearest to each of `values`, 0 and more, which are used up.

    The magnitudes are three lines: 0.5 apart up to 2, 1 apart up to 4, 2 apart from there. Rounding along each of them,
    the lowest result is right. A comparison with all seven bounds between them takes eight times as long.
    """
    import torch

    fine, middle, coarse = (values * 2).round_(), values.round().add_(2), values.mul_(0.5).round_().add_(4)
    torch.minimum(fine, middle, out=fine)
    return torch.minimum(fine, coarse, out=fine).clamp_max_(7)


def decode(packed: Tensor) -> Tensor:
    """float32 [rows, columns] of `packed` [rows, columns / 2], held in any dtype of 8 bits; even columns are low."""
    import torch

    values = torch.tensor([*_MAGNITUDES, *(-value for value in _MAGNITUDES)], dtype=torch.float16, device=packed.device)
    # Both values of each byte, as 32 bits: one look-up for two.
    pairs = torch.stack((values.repeat(16), values.repeat_interleave(16)), dim=1).view(torch.int32).flatten()
    found = pairs.index_select(0, packed.view(torch.uint8).flatten().int())
    return found.view(torch.float16).view(packed.shape[0], -1).float()
