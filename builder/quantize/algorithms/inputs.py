"""What algorithms need of the statistics of an input."""

from __future__ import annotations

from builder.quantize.problem import GroupTask, InputStatistics, Tensor
from builder.quantize.raw import SAFETENSORS_DTYPE, RawTensor
from builder.quantize.torch_bits import from_torch, import_torch
from trtllm_kit.errors import SpecError


def observed(group: GroupTask, statistics: InputStatistics | None) -> InputStatistics:
    """The statistics of the group's input; SpecError where they are NaN or infinite."""
    assert statistics is not None, "the runner gathers what STATISTICS names"
    if not statistics.amax.isfinite().all():
        raise SpecError(
            f"the input of {group.linears[0].module} was NaN or infinite in calibration",
            expected="finite activations",
            fix="calibrate in float32, and check that the checkpoint answers sensibly before it is quantized",
        )
    return statistics


def in_half(scale: Tensor, dtype: str) -> Tensor:
    """`scale` as it reads back from a part in half precision `dtype`, so that weights can be divided by just that."""
    import torch

    return scale.to(getattr(torch, dtype)).float()


def folded(scale: Tensor, norm: Tensor, dtype: str) -> Tensor:
    """`scale` as it takes effect when a norm's weights are multiplied by it and stored in half precision `dtype`.

    1 where a weight of the norm is 0, or would become 0 or infinite.
    """
    import torch

    new = in_half(norm * scale, dtype)
    usable = (norm != 0) & (new != 0) & new.isfinite()
    return torch.where(usable, new / norm, torch.ones_like(norm))


def pre_quant_part(scale: Tensor, dtype: str) -> RawTensor:
    """The part of a `scale` from `in_half`."""
    torch = import_torch("quantization")
    return from_torch(torch, scale.cpu().to(getattr(torch, dtype)), SAFETENSORS_DTYPE[dtype])
