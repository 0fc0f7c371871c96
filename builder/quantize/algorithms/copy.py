"""Weights as they are, in the dtype that was asked for: a copy of the bits where it is theirs, else a cast."""

from __future__ import annotations

from typing import Any

from builder.quantize.problem import GroupTask, InputStatistics, Knobs, Solution
from builder.quantize.raw import SAFETENSORS_DTYPE, RawTensor, is_finite, not_finite, to_float32
from builder.quantize.torch_bits import for_each_block, from_torch, import_torch
from trtllm_kit.errors import SpecError

STATISTICS: frozenset[str] = frozenset()

_RANGE = {
    "float16": ("65504", "choose the precision bf16, which has float32's range"),
    "bfloat16": ("3.39e+38", "check the checkpoint: weights this large are no result of training"),
}


def solve(group: GroupTask, statistics: InputStatistics | None, knobs: Knobs) -> Solution:
    """Every linear as it is."""
    return Solution(
        parts={
            task.module: {"weight": convert(f"{task.module}.weight", task.raw(), knobs.dtype)} for task in group.linears
        }
    )


def convert(name: str, raw: RawTensor, dtype: str) -> RawTensor:
    """`raw` in `dtype` ("float16", "bfloat16"), rounded to nearest even.

    SpecError for NaN, infinity and for values that `dtype` cannot hold.
    """
    target = SAFETENSORS_DTYPE[dtype]
    made = raw if raw.dtype == target else _cast(raw, dtype, target)
    if not is_finite(made):
        raise _overflow(name, raw, dtype) if is_finite(raw) else not_finite(name)
    return made


def _cast(raw: RawTensor, dtype: str, target: str) -> RawTensor:
    torch = import_torch(f"casting {raw.dtype} to {target}")
    cast = torch.empty(raw.array.shape, dtype=getattr(torch, dtype))

    def work(rows: slice, block: Any) -> None:
        cast[rows] = block.float()  # by way of float32, which is exact, torch casts three times as fast

    for_each_block(torch, raw, work)
    return from_torch(torch, cast, target)


def _overflow(name: str, raw: RawTensor, dtype: str) -> SpecError:
    import numpy as np

    largest = max(float(np.abs(to_float32(RawTensor(raw.dtype, raw.array[rows]))).max()) for rows in raw.blocks())
    limit, fix = _RANGE[dtype]
    return SpecError(
        f"{name} has the value {largest:.4g}, which {dtype} cannot hold", expected=f"weights up to {limit}", fix=fix
    )
