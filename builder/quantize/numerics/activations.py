"""What the kernels of each format do to a linear's input before the product, computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from builder.quantize.formats import Activation
from builder.quantize.numerics import fp8, nvfp4
from builder.quantize.numerics.scales import step
from builder.quantize.problem import Tensor


def fake_quantize(kind: Activation, x: Tensor, input_scale: Tensor | None = None) -> Tensor:
    """`x` [..., columns] rounded to what the kernel multiplies; float32, `x` itself for "half".

    Args:
        x: the input, after `pre_quant_scale` where the linear has one.
        input_scale: the linear's part of that name, a float32 scalar; only static kinds read it.
    """
    return _KINDS[kind](x.float(), input_scale)


def _half(x: Tensor, scale: Tensor | None) -> Tensor:
    return x


def _int8_tensor(x: Tensor, scale: Tensor | None) -> Tensor:
    return (x / scale).round_().clamp_(-128, 127).mul_(scale)


def _fp8_tensor(x: Tensor, scale: Tensor | None) -> Tensor:
    return fp8.decode(fp8.encode((x / scale).clamp_(-fp8.LARGEST, fp8.LARGEST))).mul_(scale)


def _fp8_token(x: Tensor, scale: Tensor | None) -> Tensor:
    return _fp8_tensor(x, step(x.abs().amax(dim=-1, keepdim=True), fp8.LARGEST))


def _fp8_block(x: Tensor, scale: Tensor | None) -> Tensor:
    import torch

    columns = x.shape[-1]
    padded = torch.nn.functional.pad(x, (0, -columns % fp8.BLOCK))
    return _fp8_token(padded.unflatten(-1, (-1, fp8.BLOCK)), None).flatten(-2)[..., :columns]


def _nvfp4(x: Tensor, scale: Tensor | None) -> Tensor:
    return nvfp4.fake_quantize(x.contiguous(), scale)


_KINDS: Mapping[Activation, Callable[[Tensor, Tensor | None], Tensor]] = MappingProxyType(
    {
        "half": _half,
        "int8_tensor": _int8_tensor,
        "fp8_tensor": _fp8_tensor,
        "fp8_token": _fp8_token,
        "fp8_block": _fp8_block,
        "nvfp4": _nvfp4,
    }
)
