"""NVFP4: E2M1 codes with an E4M3 scale for each 16 columns, below one float32 scale for the tensor."""

from __future__ import annotations

from builder.quantize.numerics import e2m1, fp8
from builder.quantize.numerics.scales import step
from builder.quantize.problem import Tensor

BLOCK = 16
LARGEST = e2m1.LARGEST * fp8.LARGEST
_SMALLEST_SCALE, _SMALLEST_NORMAL_SCALE = 2.0**-9, 2.0**-6  # of E4M3


def tensor_scale(amax: Tensor) -> Tensor:
    """`weight_scale_2`, or `input_scale`, of a tensor with this largest magnitude."""
    return step(amax, LARGEST)


def quantize(weight: Tensor, scale_2: Tensor) -> tuple[Tensor, Tensor]:
    """(packed codes uint8 [rows, columns / 2], E4M3 scales [rows, columns / 16]) of a float32 `weight`."""
    import torch

    rows, columns = weight.shape
    # Blocks side by side, their elements below each other: what is done for each block then runs along memory.
    blocks = weight.view(-1, BLOCK).t().contiguous()
    scale = _weight_scales(blocks.abs().amax(dim=0), scale_2)
    codes = e2m1.encode(blocks / (fp8.decode(scale) * scale_2))
    packed = codes[0::2] | (codes[1::2] << 4)
    return packed.t().contiguous().view(torch.uint8).view(rows, columns // 2), scale.view(rows, columns // BLOCK)


def _weight_scales(amax: Tensor, scale_2: Tensor) -> Tensor:
    """E4M3 scales of blocks with these magnitudes; 1 for blocks of zeros.

    Rounded to nearest even, which at most cuts 6.5 to 6. Below E4M3's normal numbers it would cut up to half of a
    block's largest weight, so there they are rounded up.
    """
    import torch

    scale = amax / (e2m1.LARGEST * scale_2)
    scale = torch.where(scale < _SMALLEST_NORMAL_SCALE, (scale / _SMALLEST_SCALE).ceil() * _SMALLEST_SCALE, scale)
    scale = torch.where(amax == 0, torch.ones_like(scale), scale)
    return fp8.encode(scale.clamp(_SMALLEST_SCALE, fp8.LARGEST))


def fake_quantize(values: Tensor, scale_2: Tensor) -> Tensor:
    """float32 `values` [..., columns] as the kernel sees them: its block scales round to nearest, down to zero."""
    import torch

    blocks = values.view(-1, BLOCK).t().contiguous()
    amax = blocks.abs().amax(dim=0)
    scale = fp8.decode(fp8.encode((amax / (e2m1.LARGEST * scale_2)).clamp_max(fp8.LARGEST))) * scale_2
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    magnitudes = e2m1.round_magnitudes((blocks / divisor).abs_()).mul_(scale)
    return magnitudes.copysign_(blocks).t().contiguous().view(values.shape)
