"""How the parts of a linear are found, by name. A module is an implementation; a new one is a file and a row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from builder.quantize.algorithms import awq, copy, round_to_nearest, smoothquant, static
from builder.quantize.problem import Algorithm

ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        "copy": copy,
        "round_to_nearest": round_to_nearest,
        "static": static,
        "smoothquant": smoothquant,
        "awq": awq,
    }
)
