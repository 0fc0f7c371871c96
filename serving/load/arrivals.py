"""When sessions start: as others end (closed loop), or on a schedule that no slow answer can delay (open loop)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from trtllm_kit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """`concurrency` sessions at once, each followed by the next when it has ended.

    Its latencies say nothing of queueing: a slow server is simply asked less often.
    """

    concurrency: int

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise UsageError(f"a concurrency of {self.concurrency}", expected="1 or more")


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """`rate` sessions per second, whatever the server does. `kind` is a row of GAPS; `burstiness` is gamma's shape."""

    rate: float
    kind: str = "poisson"
    burstiness: float = 1.0  # 1 is Poisson, less is burstier, more is steadier
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in GAPS:
            raise UsageError(f"unknown arrivals '{self.kind}'", expected=f"one of {', '.join(GAPS)}")
        if not self.rate > 0 or not self.burstiness > 0:
            raise UsageError("rate and burstiness are above 0", expected="e.g. 4 requests per second")

    def times_s(self) -> Iterator[float]:
        """Start times, without end."""
        source = random.Random(f"arrivals/{self.seed}")
        gap = GAPS[self.kind]
        return itertools.accumulate(gap(source, self.rate, self.burstiness) for _ in itertools.count())


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Start times of a trace, in seconds after its start; `speed` 2 replays it in half the time."""

    at_s: Sequence[float]
    speed: float = 1.0

    def times_s(self) -> Iterator[float]:
        """Start times, to the end of the trace."""
        return (at_s / self.speed for at_s in self.at_s)


Arrivals = ClosedLoop | OpenLoop | Replay

GAPS: Mapping[str, Callable[[random.Random, float, float], float]] = MappingProxyType(
    {
        "constant": lambda source, rate, _: 1 / rate,
        "poisson": lambda source, rate, _: source.expovariate(rate),
        "gamma": lambda source, rate, shape: source.gammavariate(shape, 1 / (rate * shape)),
    }
)
