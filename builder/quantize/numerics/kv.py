"""Scales of a quantized KV cache, as NVIDIA ModelOpt writes them for TensorRT-LLM 1.2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from builder.quantize.formats import Activation
from builder.quantize.numerics import fp8, integers, nvfp4
from builder.quantize.numerics.scales import step
from builder.quantize.problem import Tensor


@dataclass(frozen=True, kw_only=True)
class _Kind:
    largest: float
    least: float = 0.0  # of a scale
    rounding: Activation  # how the cache rounds what it holds


# FP8 holds keys and values up to 448 as they are; a finer scale gains nothing, for its precision is relative.
_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "fp8": _Kind(largest=fp8.LARGEST, least=1.0, rounding="fp8_tensor"),
        "int8": _Kind(largest=integers.INT8_LARGEST, rounding="int8_tensor"),
        "nvfp4": _Kind(largest=nvfp4.LARGEST, rounding="nvfp4"),
    }
)


def scales(kind: str, k_amax: Tensor, v_amax: Tensor) -> tuple[Tensor, Tensor]:
    """(k_scale, v_scale), float32 scalars, for a cache of `kind` ("fp8", "int8", "nvfp4").

    Args:
        k_amax, v_amax: largest magnitudes of keys and values as the cache keeps them, so of rotated keys.
    """
    row = _KINDS[kind]
    k_scale, v_scale = (step(amax, row.largest).clamp_min(row.least) for amax in (k_amax, v_amax))
    return k_scale, v_scale


def rounding(kind: str) -> Activation:
    """What `activations.fake_quantize` is to do to keys and values with their scale."""
    return _KINDS[kind].rounding
