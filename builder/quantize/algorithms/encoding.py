"""From a weight in the checkpoint to its parts, a block of rows at a time; and what all algorithms refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from builder.quantize.formats import Format, Role
from builder.quantize.problem import LinearTask, Tensor
from builder.quantize.raw import RawTensor, not_finite, to_float32
from builder.quantize.torch_bits import for_each_block, from_torch, import_torch, side_by_side
from trtllm_kit.errors import SpecError

_TORCH_DTYPES = {"I8": "int8", "U8": "uint8", "F8_E4M3": "uint8", "F32": "float32"}

Quantize = Callable[[slice, Tensor], Mapping[Role, Tensor]]
"""(rows, their float32 weights, a copy to use up) -> what those rows have of each part."""


def encode(task: LinearTask, quantize: Quantize) -> dict[Role, RawTensor]:
    """The parts of a linear that have rows, by what `quantize` makes of blocks of them.

    SpecError naming the linear when its scales come out as NaN or infinity, or its features do not fit the format.
    """
    check_features(task)
    torch = import_torch("quantization")
    parts = {role: part for role, part in task.format.parts.items() if part.rows is not None}
    made = {
        role: torch.empty(part.shape(task.rows, task.columns), dtype=getattr(torch, _TORCH_DTYPES[str(part.dtype)]))
        for role, part in parts.items()
    }

    def work(rows: slice, block: Any) -> None:
        for role, tensor in quantize(rows, block.float()).items():
            shared = parts[role].rows or 1
            made[role][rows.start // shared : -(-rows.stop // shared)] = tensor.view(made[role].dtype)

    for_each_block(torch, task.raw(), work, multiple=row_multiple(task.format))
    for role, part in parts.items():
        if part.dtype == "F32" and not made[role].isfinite().all():
            raise not_finite(f"{task.module}.weight")
    return {role: from_torch(torch, tensor, str(parts[role].dtype)) for role, tensor in made.items()}


def row_multiple(form: Format) -> int:
    """Rows of the weight that must stay together, because parts have elements in common there."""
    return max(part.rows or 1 for part in form.parts.values())


def weight_amax(task: LinearTask) -> Tensor:
    """Largest magnitude of the weight, a float32 scalar, told by its bits; SpecError for NaN and infinity."""
    import numpy as np

    torch, raw = import_torch("quantization"), task.raw()
    # Without the sign bit, floats are in the order of their bits, and what is not finite lies above all numbers.
    tasks = (lambda rows=rows: np.left_shift(raw.array[rows], 1).max() for rows in raw.blocks())
    largest = np.array([max(side_by_side(torch, tasks)) >> 1], dtype=raw.array.dtype)
    amax = torch.from_numpy(to_float32(RawTensor(raw.dtype, largest)).copy())[0]
    if not amax.isfinite():
        raise not_finite(f"{task.module}.weight")
    return amax


def column_amax(task: LinearTask) -> Tensor:
    """Largest magnitude of each column of the weight, float32 [columns]; SpecError for NaN and infinity."""
    torch, raw = import_torch("quantization"), task.raw()
    found: dict[int, Tensor] = {}

    def work(rows: slice, block: Any) -> None:
        found[rows.start] = block.float().abs_().amax(dim=0)

    for_each_block(torch, raw, work)
    amax = torch.stack(list(found.values())).amax(dim=0)
    if not amax.isfinite().all():
        raise not_finite(f"{task.module}.weight")
    return amax


def scalar(value: Tensor) -> RawTensor:
    """A float32 part of a whole tensor."""
    torch = import_torch("quantization")
    return from_torch(torch, value.detach().float().cpu().reshape(()), "F32")


def check_features(task: LinearTask) -> None:
    """SpecError for features that do not divide by what shares a scale or a byte."""
    for features, multiple, side in (
        (task.columns, task.format.column_multiple, "in"),
        (task.rows, task.format.row_multiple, "out"),
    ):
        if features % multiple:
            fits = features & -features  # the largest power of two that divides them
            raise SpecError(
                f"{task.module} has {features} {side} features, which {task.format.name} cannot divide by {multiple}",
                expected=f"a multiple of {multiple}; {features} is one of {fits}",
                fix=f"exclude {task.module}, or choose a precision that needs no such groups, such as int8_wo or fp8",
            )
