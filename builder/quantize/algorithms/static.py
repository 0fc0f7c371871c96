"""Scales of whole tensors, of the weight and, from calibration, of its input: FP8 and NVFP4."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from builder.quantize.algorithms.encoding import encode, scalar, weight_amax
from builder.quantize.algorithms.inputs import observed
from builder.quantize.formats import Role
from builder.quantize.numerics import fp8, nvfp4
from builder.quantize.numerics.scales import step
from builder.quantize.problem import GroupTask, InputStatistics, Knobs, Solution, Tensor
from builder.quantize.torch_bits import import_torch

STATISTICS: frozenset[str] = frozenset({"amax"})


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A format by its codes below a scale of the tensor."""

    largest: float  # magnitude of a weight or an input when divided by the scale
    scale: Role
    quantize: Callable[[Tensor, Tensor], Mapping[Role, Tensor]]  # (weights of some rows, scale)


def solve(group: GroupTask, statistics: InputStatistics | None, knobs: Knobs) -> Solution:
    """Weights to nearest below amax / largest; the input's scale alike, and the same for all that read it.

    An input of which calibration saw nothing but zeros, or nothing at all, such as an expert that no token reached,
    gets the scale 1 as it does in NVIDIA ModelOpt: inputs up to `largest` keep all of their floating-point precision.
    """
    torch = import_torch("quantization")
    row = _FORMATS[group.linears[0].format.name]
    amax = {task.module: weight_amax(task) for task in group.linears}
    if group.share_scales:
        amax = dict.fromkeys(amax, torch.stack(list(amax.values())).amax())
    input_scale = step(observed(group, statistics).amax.amax(), row.largest)
    parts = {}
    for task in group.linears:
        scale = step(amax[task.module], row.largest)
        made = encode(task, lambda rows, weight, scale=scale: row.quantize(weight, scale))  # type: ignore[misc]
        parts[task.module] = {**made, row.scale: scalar(scale), "input_scale": scalar(input_scale)}
    return Solution(parts=parts)


def _fp8(weight: Tensor, scale: Tensor) -> dict[Role, Tensor]:
    return {"weight": fp8.encode(weight / scale)}


def _nvfp4(weight: Tensor, scale: Tensor) -> dict[Role, Tensor]:
    codes, block_scales = nvfp4.quantize(weight, scale)
    return {"weight": codes, "weight_scale": block_scales}


_FORMATS: Mapping[str, _Row] = MappingProxyType(
    {
        "fp8_tensor": _Row(largest=fp8.LARGEST, scale="weight_scale", quantize=_fp8),
        "nvfp4": _Row(largest=nvfp4.LARGEST, scale="weight_scale_2", quantize=_nvfp4),
    }
)
