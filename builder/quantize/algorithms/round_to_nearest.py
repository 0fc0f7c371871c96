"""Each weight to the nearest code, with scales from the weights alone: no calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from builder.quantize.algorithms.encoding import encode
from builder.quantize.formats import Role
from builder.quantize.numerics import fp8, integers
from builder.quantize.problem import GroupTask, InputStatistics, Knobs, Solution, Tensor

STATISTICS: frozenset[str] = frozenset()


def solve(group: GroupTask, statistics: InputStatistics | None, knobs: Knobs) -> Solution:
    """Every linear for itself."""
    return Solution(parts={task.module: encode(task, _FORMATS[task.format.name]) for task in group.linears})


def _int8_row(rows: slice, weight: Tensor) -> dict[Role, Tensor]:
    codes, scale = integers.quantize_rows(weight)
    return {"weight": codes, "weight_scale": scale}


def _int4_row(rows: slice, weight: Tensor) -> dict[Role, Tensor]:
    codes, scale = integers.quantize_rows(weight, integers.INT4_LARGEST)
    return {"weight": integers.pack_rows(codes), "weight_scale": scale}


def _fp8_row(rows: slice, weight: Tensor) -> dict[Role, Tensor]:
    codes, scale = fp8.quantize_rows(weight)
    return {"weight": codes, "weight_scale": scale}


def _fp8_block(rows: slice, weight: Tensor) -> dict[Role, Tensor]:
    codes, scale = fp8.quantize_blocks(weight)
    return {"weight": codes, "weight_scale": scale}


_FORMATS: Mapping[str, Callable[[slice, Tensor], Mapping[Role, Tensor]]] = MappingProxyType(
    {"int8_row": _int8_row, "int4_row": _int4_row, "fp8_row": _fp8_row, "fp8_block": _fp8_block}
)
