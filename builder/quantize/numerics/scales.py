"""The step between codes, from the largest magnitude that they have to hold."""

from __future__ import annotations

from builder.quantize.problem import Tensor

_SMALLEST = 2.0**-126  # float32's smallest normal number: below it, some devices flush to zero


def step(amax: Tensor, largest: float) -> Tensor:
    """amax / largest in float32, NaN and infinity kept; 1 where amax is 0.

    1 for zeros, as upstream has it: a scale of 0 would turn into NaN in kernels that divide by it.
    """
    import torch

    amax = amax.float()
    return torch.where(amax == 0, torch.ones_like(amax), (amax / largest).clamp_min(_SMALLEST))
