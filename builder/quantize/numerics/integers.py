"""Symmetric integers, rounded to nearest even: INT8, and INT4 with two rows to a byte."""

from __future__ import annotations

from builder.quantize.numerics.scales import step
from builder.quantize.problem import Tensor

INT8_LARGEST, INT4_LARGEST = 127.0, 7.0


def quantize_rows(weight: Tensor, largest: float = INT8_LARGEST) -> tuple[Tensor, Tensor]:
    """(int8 codes [rows, columns], float32 scales [rows]) of a float32 `weight`: at most half a scale off."""
    scale = step(weight.abs().amax(dim=1), largest)
    return _round(weight / scale[:, None], -largest, largest), scale


def group_scales(weight: Tensor, size: int) -> Tensor:
    """INT4 scales [rows, columns / size] that clip nothing."""
    return step(weight.abs().view(weight.shape[0], -1, size).amax(dim=2), INT4_LARGEST)


def quantize_groups(weight: Tensor, scale: Tensor) -> Tensor:
    """int8 codes -8..7 [rows, columns] with one `scale` [rows, groups] for each group of columns."""
    groups = weight.view(*scale.shape, -1)
    return _round(groups / scale[:, :, None], -INT4_LARGEST - 1, INT4_LARGEST).view(weight.shape)


def pack_rows(codes: Tensor) -> Tensor:
    """int8 codes -8..7 [rows, columns] -> uint8 [rows / 2, columns]: row 2k in the low nibble, row 2k+1 in the high."""
    import torch

    return ((codes[0::2] & 0xF) | (codes[1::2] << 4)).view(torch.uint8)


def unpack_rows(packed: Tensor) -> Tensor:
    """int8 codes [rows, columns] of `pack_rows`; `packed` may be of any dtype of 8 bits."""
    import torch

    packed = packed.view(torch.int8)
    return torch.stack((packed << 4 >> 4, packed >> 4), dim=1).view(-1, packed.shape[1])


def _round(steps: Tensor, smallest: float, largest: float) -> Tensor:
    import torch

    return steps.round_().clamp_(smallest, largest).to(torch.int8)
