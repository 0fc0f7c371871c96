"""The search for the scale of each feature that costs least when weights are rounded to INT4 in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from builder.quantize.numerics import integers
from builder.quantize.problem import InputStatistics, Tensor
from builder.quantize.torch_bits import import_torch, side_by_side

_ALPHAS = tuple(step / 10 for step in range(11))
_FINER = 0.05
_ROWS = 128  # of all weights together that the search looks at: their mean loss tells alphas apart as well as all do
_BLOCK_ROWS = 256
_BOUNDS = (1e-4, 1e4)
_TINY = 2.0**-126


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`factor` [columns] multiplies the input; the weights are divided by it."""

    factor: Tensor
    alpha: float
    relative_error: float  # of the outputs, root mean square, on the rows that were searched


def best_factor(
    weights: list[Tensor], statistics: InputStatistics, size: int, store: Callable[[Tensor], Tensor]
) -> Choice:
    """The best of `weight^(1 - alpha) / input^alpha` for alpha from 0 to 1.

    Args:
        weights: float32 [rows, columns] of the linears that read the input.
        size: columns of a group.
        store: rounds a factor to what the checkpoint can hold; that is what is compared.
    """
    torch = import_torch("AWQ")
    weight_size, sample, gram = _weight_size(weights, size), _sample(weights), statistics.gram

    def factor(alpha: float) -> Tensor:
        return store(1 / _scale(statistics.mean_abs, weight_size, alpha))

    def losses(alphas: Iterable[float]) -> dict[float, float]:
        tasks = [(alpha, lambda alpha=alpha: _loss(sample, gram, factor(alpha), size)) for alpha in alphas]
        return dict(zip((alpha for alpha, _ in tasks), side_by_side(torch, (task for _, task in tasks)), strict=True))

    found = losses(_ALPHAS)
    middle = min(found, key=found.__getitem__)
    found |= losses(alpha for alpha in (middle - _FINER, middle + _FINER) if 0 < alpha < 1)
    alpha = min(found, key=found.__getitem__)
    energy = _inner(sample, gram)
    error = (found[alpha] / energy) ** 0.5 if energy > 0 else 0.0
    return Choice(factor=factor(alpha), alpha=alpha, relative_error=error)


def _weight_size(weights: list[Tensor], size: int) -> Tensor:
    """Mean over all rows of each weight's part in the largest of its group, [columns]."""
    total = 0
    for rows in (rows for weight in weights for rows in weight.split(_BLOCK_ROWS)):
        groups = rows.abs().view(rows.shape[0], -1, size)
        total = total + groups.div_(groups.amax(dim=2, keepdim=True) + _TINY).sum(dim=0).flatten()
    return total / sum(weight.shape[0] for weight in weights)


def _sample(weights: list[Tensor]) -> Tensor:
    """Rows at even distances through all of `weights`."""
    import torch

    every = -(-sum(weight.shape[0] for weight in weights) // _ROWS)
    return torch.cat([weight[::every] for weight in weights])


def _scale(input_size: Tensor, weight_size: Tensor, alpha: float) -> Tensor:
    """Around 1 in the geometric middle; 1 for features that were never seen, whose loss says nothing."""
    import torch

    scale = (input_size.pow(alpha) / (weight_size.pow(1 - alpha) + _TINY)).clamp(*_BOUNDS)
    seen = input_size > 0
    if not bool(seen.any()):
        return torch.ones_like(scale)
    low, high = torch.aminmax(scale[seen])
    return torch.where(seen, scale / (low * high).sqrt(), torch.ones_like(scale))


def _loss(weight: Tensor, gram: Tensor, factor: Tensor, size: int) -> float:
    scaled = weight / factor
    steps = integers.group_scales(scaled, size)
    codes = integers.quantize_groups(scaled, steps)
    rounded = (codes.view(*steps.shape, size) * steps[:, :, None]).view(scaled.shape)
    return _inner(rounded.sub_(scaled).mul_(factor), gram)


def _inner(rows: Tensor, gram: Tensor) -> float:
    """tr(rows G rowsᵀ)."""
    import torch

    return float((rows @ gram).mul_(rows).sum(dtype=torch.float64))
