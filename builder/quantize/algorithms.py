"""What can be done to the weight of a linear, by name. A module is an implementation; a new one is a file and a row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from builder.quantize import convert, int8_wo
from builder.quantize.raw import RawTensor

Outputs = Mapping[str, tuple[str, tuple[int, ...]]]
"""What comes of one weight: suffix after its name ("" for itself, "_scale"), safetensors dtype and shape."""


class Algorithm(Protocol):
    """`dtype` is the half precision of everything that is not quantized."""

    def outputs(self, shape: tuple[int, ...], dtype: str) -> Outputs:
        """What `apply` will return for a weight of this shape, known before any weight is read."""

    def apply(self, name: str, raw: RawTensor, dtype: str) -> dict[str, RawTensor]:
        """Transform one weight, [out, in]; SpecError that names it when it cannot be done."""


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({"copy": convert, "int8_wo": int8_wo})
PLAIN = ALGORITHMS["copy"]
"""For what is never quantized: embeddings, norms, biases, the output layer."""
