"""The weight that a linear's parts stand for, whatever their format."""

from __future__ import annotations

from collections.abc import Mapping

from builder.quantize.formats import Format, Part, Role
from builder.quantize.numerics import e2m1, fp8, integers
from builder.quantize.problem import Tensor

_BLOCK_ITEMS = 1 << 17  # a block and its temporaries stay in a processor's cache


def dequantize(form: Format, parts: Mapping[Role, Tensor], *, scaled_input: bool = False) -> Tensor:
    """The effective weight, float32 [rows, columns], on the parts' device.

    Args:
        parts: by role, shaped as `form.parts` says; scalars may be [] or [1], eight-bit codes of any dtype.
        scaled_input: the weight for an input that `pre_quant_scale` has multiplied already. Formats that round their
            input do so after that product, so that only this variant is right for them where the input is rounded.
    """
    import torch

    stored, codes = form.parts["weight"], parts["weight"]
    rows, columns = codes.shape[0] * (stored.rows or 1), codes.shape[1] * (stored.columns or 1)
    weight = torch.empty((rows, columns), dtype=torch.float32, device=codes.device)
    together = max(part.rows or 1 for part in form.parts.values())
    step = max(1, _BLOCK_ITEMS // columns // together) * together
    for start in range(0, rows, step):
        block = {role: _rows(form.parts[role], part, start, step) for role, part in parts.items()}
        weight[start : start + step] = _effective(form, block, scaled_input)
    return weight


def _rows(part: Part, tensor: Tensor, start: int, count: int) -> Tensor:
    """What stands behind `count` rows of the weight."""
    return tensor if part.rows is None else tensor[start // part.rows : -(-(start + count) // part.rows)]


def _effective(form: Format, parts: Mapping[Role, Tensor], scaled_input: bool) -> Tensor:
    weight = _decode(form.parts["weight"], parts["weight"])
    if "weight_scale" in parts:
        part, scale = form.parts["weight_scale"], parts["weight_scale"]
        _multiply(weight, fp8.decode(scale) if part.dtype == "F8_E4M3" else scale.float(), part)
        # Only FP8 scales lie below a second one. Beside INT4 groups it is what the kernel divides their scales by to
        # compute in FP8, and no factor of the weight.
        if part.dtype == "F8_E4M3":
            weight *= parts["weight_scale_2"].float()
    if "pre_quant_scale" in parts and not scaled_input:
        weight *= parts["pre_quant_scale"].float()
    return weight


def _decode(part: Part, codes: Tensor) -> Tensor:
    """float32 [rows, columns] in memory of its own."""
    import torch

    if part.rows == 2:
        return integers.unpack_rows(codes).float()
    if part.columns == 2:
        return e2m1.decode(codes)
    return fp8.decode(codes) if part.dtype == "F8_E4M3" else codes.to(torch.float32, copy=True)


def _multiply(weight: Tensor, scale: Tensor, part: Part) -> None:
    """`weight` times the scale of each of its blocks; a last block may be cut short."""
    rows, columns = weight.shape
    if part.rows is None:
        weight *= scale  # [] or [1]
    elif part.columns is None:
        weight *= scale.view(rows, 1)
    elif part.rows == 1 and columns % part.columns == 0:
        weight.view(rows, -1, part.columns).mul_(scale[:, :, None])
    else:
        for row, scales in enumerate(scale.repeat_interleave(part.columns, dim=1)[:, :columns]):
            weight[row * part.rows : (row + 1) * part.rows] *= scales
