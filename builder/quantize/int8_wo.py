"""INT8 weight-only: each output channel of a linear is rounded to 127 steps of its largest weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.quantize.raw import RawTensor, not_finite
from builder.quantize.torch_bits import for_each_block, from_torch, import_torch

if TYPE_CHECKING:
    from builder.quantize.algorithms import Outputs

_SMALLEST_SCALE = 2.0**-126  # float32's smallest normal number: below it, some devices flush to zero


def outputs(shape: tuple[int, ...], dtype: str) -> Outputs:
    """`weight` [out, in] int8 and `weight_scale` [out] float32."""
    return {"": ("I8", shape), "_scale": ("F32", shape[:1])}


def apply(name: str, raw: RawTensor, dtype: str) -> dict[str, RawTensor]:
    """Quantize a weight [out, in], a block of rows at a time; SpecError when it holds NaN or infinity."""
    torch = import_torch("INT8 quantization")
    codes = torch.empty(raw.array.shape, dtype=torch.int8)
    scales = torch.empty(raw.array.shape[0], dtype=torch.float32)

    def work(rows: slice, block: Any) -> None:
        scales[rows], codes[rows] = quantize_rows(torch, block.float())

    for_each_block(torch, raw, work)
    if not torch.isfinite(scales).all():
        raise not_finite(name)
    return {"": from_torch(torch, codes, "I8"), "_scale": from_torch(torch, scales, "F32")}


def quantize_rows(torch: Any, rows: Any) -> tuple[Any, Any]:
    """(scales [out] float32, codes [out, in] int8) of float32 `rows`, on whatever device they are.

    weight ≈ code × scale, off by half a scale at most. Every operation is exactly rounded, so CPU and GPU agree to the
    bit. A row of zeros gets the scale 1, for a scale of 0 would turn into NaN in kernels that divide by it.
    """
    largest = rows.abs().amax(dim=1)
    scale = torch.where(largest == 0, torch.ones_like(largest), (largest / 127).clamp_min(_SMALLEST_SCALE))
    return scale, (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
