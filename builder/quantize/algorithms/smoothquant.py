"""SmoothQuant (Xiao et al., 2023, https://arxiv.org/abs/2211.10438): outliers of the input move into the weight.

Each feature of the input is multiplied by `weight_amax^(1 - alpha) / input_amax^alpha`, and the weight's column divided
by it; then both are rounded to INT8, the weight by row, the input with one scale.
"""

from __future__ import annotations

from builder.quantize.algorithms.encoding import column_amax, encode, scalar
from builder.quantize.algorithms.inputs import in_half, observed, pre_quant_part
from builder.quantize.formats import Role
from builder.quantize.numerics import integers
from builder.quantize.numerics.scales import step
from builder.quantize.problem import GroupTask, InputStatistics, Knobs, Solution, Tensor
from builder.quantize.raw import RawTensor
from builder.quantize.torch_bits import import_torch
from trtllm_kit.errors import SpecError

STATISTICS: frozenset[str] = frozenset({"amax"})

_NEVER_SEEN = 2.0**-31  # amax of a feature that says nothing
_BOUNDS = (1e-4, 1e4)


def solve(group: GroupTask, statistics: InputStatistics | None, knobs: Knobs) -> Solution:
    """One smoothing for all linears of the group, from the largest of their weights.

    Features that calibration never saw stay as they are, as in NVIDIA ModelOpt. A whole input that it never saw is
    refused with SpecError: no integer step would be right for it.
    """
    torch = import_torch("quantization")
    found = observed(group, statistics)
    if found.tokens == 0:
        raise _never_reached(group)
    input_amax = found.amax.cpu()
    columns = torch.stack([column_amax(task) for task in group.linears]).amax(dim=0)
    smoothing = in_half(_smoothing(columns, input_amax, knobs.smoothquant_alpha), knobs.dtype)
    input_scale = step((input_amax * smoothing).amax(), integers.INT8_LARGEST)

    def quantize(rows: slice, weight: Tensor) -> dict[Role, Tensor]:
        codes, scale = integers.quantize_rows(weight.div_(smoothing))
        return {"weight": codes, "weight_scale": scale}

    shared: dict[Role, RawTensor] = {
        "input_scale": scalar(input_scale),
        "pre_quant_scale": pre_quant_part(smoothing, knobs.dtype),
    }
    return Solution(parts={task.module: {**encode(task, quantize), **shared} for task in group.linears})


def _smoothing(weight_amax: Tensor, input_amax: Tensor, alpha: float) -> Tensor:
    """What the input is multiplied by, [columns]."""
    import torch

    factor = weight_amax.pow(1 - alpha) / input_amax.pow(alpha)
    return torch.where(input_amax <= _NEVER_SEEN, torch.ones_like(factor), factor).clamp(*_BOUNDS)


def _never_reached(group: GroupTask) -> SpecError:
    return SpecError(
        f"no calibration token reached {group.linears[0].module}",
        expected="inputs to take the INT8 step from",
        fix=f"calibrate on more, or more varied, samples, or exclude {group.linears[0].module}",
    )
