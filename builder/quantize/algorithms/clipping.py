"""The search for INT4 scales that cut the largest weights of a group so that the others are rounded more finely."""

from __future__ import annotations

from builder.quantize.numerics import integers
from builder.quantize.problem import Tensor

_COARSE, _FINE = (-0.1, -0.2, -0.3, -0.4), (-0.05, 0.05)
"""What is tried beside clipping nothing, as offsets of the ratio: first all of them, then both sides of the best."""


def gram_blocks(gram: Tensor, factor: Tensor, size: int) -> Tensor:
    """[groups, size, size] on the diagonal of the Gram matrix of an input that is multiplied by `factor`."""
    import torch

    groups = gram.shape[0] // size
    blocks = torch.stack([gram[at : at + size, at : at + size] for at in range(0, gram.shape[0], size)])
    factors = factor.view(groups, size)
    return blocks * factors[:, :, None] * factors[:, None, :]


def clipped_scales(weight: Tensor, blocks: Tensor) -> Tensor:
    """Scales [rows, groups] of float32 `weight`, each the best of a range by the error of what its group adds.

    Args:
        blocks: of the input's Gram matrix, from `gram_blocks`.
    """
    import torch

    groups, size, _ = blocks.shape
    whole = integers.group_scales(weight, size).t().contiguous()
    parts = weight.view(-1, groups, size).transpose(0, 1).contiguous()

    def loss(ratio: Tensor) -> Tensor:
        scale = (whole * ratio)[:, :, None]
        error = (parts / scale).round_().clamp_(-8, 7).mul_(scale).sub_(parts)
        return torch.bmm(error, blocks).mul_(error).sum(dim=2)

    best = torch.ones_like(whole)
    least = loss(best)
    for candidates in (_COARSE, _FINE):
        middle = best
        for offset in candidates:
            ratio = (middle + offset).clamp_max(1)
            found = loss(ratio)
            best, least = torch.where(found < least, ratio, best), torch.minimum(found, least)
    return (whole * best).t().contiguous()
