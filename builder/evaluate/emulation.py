"""What a quantized kernel computes, on any device: weights as they are stored, rounded inputs, a rounded KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from builder.quantize.formats import Format
from builder.quantize.numerics import dequantize, kv
from builder.quantize.numerics.activations import fake_quantize
from builder.quantize.problem import Tensor

ROUNDED_BY_BUILDER: Mapping[str, int] = MappingProxyType({"W8A16": 8, "W4A16": 4})
"""Of TensorRT-LLM's layout: half precision in the file, which trtllm-build rounds to so many bits."""


@dataclass(frozen=True, kw_only=True)
class EmulatedLinear:
    """One linear of a quantized layer: its weight, and what it does to its input before the product."""

    weight: Tensor  # float32 [rows, columns]
    smooth: Tensor | None = None  # float32 [columns], which the input is multiplied by
    prepare: Callable[[Tensor], Tensor] | None = None  # rounds, and smoothes before that; None: the input as it is

    @classmethod
    def of(cls, stored: Format, parts: Mapping[Any, Tensor]) -> EmulatedLinear:
        """The linear that `parts` hold in the format `stored`."""
        if stored.activation == "half":
            return cls(weight=dequantize(stored, parts))
        scale = parts.get("input_scale")
        smooth = parts["pre_quant_scale"].float() if "pre_quant_scale" in parts else None

        def prepare(values: Tensor) -> Tensor:
            return fake_quantize(stored.activation, values if smooth is None else values * smooth, scale)

        return cls(weight=dequantize(stored, parts, scaled_input=True), smooth=smooth, prepare=prepare)


@contextmanager
def rounding_inputs(submodule: Callable[[str], Any], linears: Mapping[str, EmulatedLinear]) -> Iterator[None]:
    """Within the block the linears of a layer, by name, round what they read."""
    handles = [
        submodule(name).register_forward_pre_hook(_before(linear.prepare))
        for name, linear in linears.items()
        if linear.prepare is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(prepare: Callable[[Tensor], Tensor]) -> Callable[[Any, tuple[Tensor, ...]], Tensor]:
    return lambda _module, inputs: prepare(inputs[0])


class RoundedCache:
    """Stands in for transformers' KV cache of one layer: hands back each key and value as the cache would keep it.

    Every token is read back so, as in decoding. A kernel's prefill may still see the prompt unrounded.
    """

    def __init__(self, kind: str, key_scale: Tensor, value_scale: Tensor) -> None:
        self._activation = kv.rounding(kind)
        self._scales = key_scale, value_scale

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Of transformers' `Cache`: [batch, heads, tokens, head size] each."""
        key_scale, value_scale = self._scales
        return (
            fake_quantize(self._activation, keys, key_scale),
            fake_quantize(self._activation, values, value_scale),
        )


def with_cache(call: Mapping[str, Any], cache: RoundedCache | None) -> Mapping[str, Any]:
    """A layer's arguments with `cache` in them; the argument's name differs among releases of transformers."""
    if cache is None:
        return call
    names = [name for name in call if name in ("past_key_values", "past_key_value")] or ["past_key_values"]
    return {**call, **dict.fromkeys(names, cache)}


def rounded_by_builder(weight: Tensor, bits: int) -> Tensor:
    """What trtllm-build makes of a half-precision weight [rows, columns]: steps of amax / 2^(bits-1) for each row.

    Its `symmetric_quantize` rounds halves away from zero and cuts the positive end, which has one step less.
    """
    import torch

    steps = 2.0 ** (bits - 1)
    scale = weight.abs().amax(dim=1, keepdim=True) / steps
    codes = weight / torch.where(scale == 0, torch.ones_like(scale), scale)
    codes = codes.sign() * (codes.abs() + 0.5).floor()
    return codes.clamp_(-steps, steps - 1) * scale
