"""Which format a linear is stored in, told by its tensors alone, for configs say it in many ways."""

from __future__ import annotations

from collections.abc import Mapping

from builder.quantize.formats import FORMATS, GROUP, Format, Role

Found = tuple[str, tuple[int, ...]]
"""Safetensors dtype and shape."""

_FLOATS = ("F32", "F16", "BF16")
_PACKED = ("U8", "I8")
_OPTIONAL: tuple[Role, ...] = ("pre_quant_scale",)  # folded into the norm before the linear


def recognise(rows: int, columns: int, found: Mapping[Role, Found]) -> Format | None:
    """The format of a linear [rows, columns] that consists of the tensors `found`; None if it is none of ours."""
    for row in FORMATS.values():
        candidate = _of_group(row, columns, found)
        for role in _OPTIONAL:
            candidate = candidate if role in found else candidate.without(role)
        if set(candidate.parts) == set(found) and all(
            _fits(candidate, role, tensor, rows, columns) for role, tensor in found.items()
        ):
            return candidate
    return None


def _of_group(row: Format, columns: int, found: Mapping[Role, Found]) -> Format:
    """`row` with the group size that the scales' shape gives it, where it has groups."""
    _, shape = found.get("weight_scale", ("", ()))
    if not any(part.columns == GROUP for part in row.parts.values()) or len(shape) != 2 or columns % max(1, shape[1]):
        return row
    return row.of_group(columns // max(1, shape[1]))


def _fits(candidate: Format, role: Role, tensor: Found, rows: int, columns: int) -> bool:
    """Scales in half precision and scalars of shape [1] are as good as what we write."""
    part, (dtype, shape) = candidate.parts[role], tensor
    dtypes = _FLOATS if part.dtype in (None, "F32") else _PACKED if part.dtype == "U8" else (part.dtype,)
    if dtype not in dtypes or GROUP in (part.columns,):
        return False
    return shape == part.shape(rows, columns) or (part.shape(rows, columns) == () and shape == (1,))
