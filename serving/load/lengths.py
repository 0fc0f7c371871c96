"""Lengths in tokens as people write them: 128, 64-256, normal:512:128, lognormal:512:128."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trtllm_kit.errors import UsageError

EXPECTED = "128, 64-256, normal:MEAN:SD or lognormal:MEAN:SD"


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A distribution of lengths, never below 1."""

    kind: str
    first: float
    second: float = 0.0

    def draw(self, source: random.Random) -> int:
        """One length."""
        return max(1, round(_KINDS[self.kind](source, self.first, self.second)))


def parse_lengths(text: str) -> Lengths:
    """UsageError says what is understood."""
    kind, *numbers = text.split(":") if ":" in text else (["uniform", *text.split("-")] if "-" in text else ["", text])
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    good = values and all(math.isfinite(value) and value >= 0 for value in values) and values[0] >= 1
    if not good or kind not in _KINDS or len(values) != (1 if kind == "" else 2):
        raise UsageError(f"'{text}' is no length", expected=EXPECTED)
    if kind == "uniform" and values[1] < values[0]:
        raise UsageError(f"'{text}' ends before it starts", expected=EXPECTED)
    return Lengths(kind=kind, first=values[0], second=values[1] if len(values) > 1 else 0.0)


def _lognormal(source: random.Random, mean: float, deviation: float) -> float:
    """With this mean and deviation of the lengths themselves, not of their logarithms."""
    variance = math.log1p((deviation / mean) ** 2)
    return source.lognormvariate(math.log(mean) - variance / 2, math.sqrt(variance))


_KINDS: Mapping[str, Callable[[random.Random, float, float], float]] = MappingProxyType(
    {
        "": lambda source, length, _: length,
        "uniform": lambda source, low, high: source.randint(int(low), int(high)),
        "normal": lambda source, mean, deviation: source.gauss(mean, deviation),
        "lognormal": _lognormal,
    }
)
