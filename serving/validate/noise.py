"""How sure a difference between two runs is: block bootstrap on their records.

Answers that are in the air together are slow together, so single requests are no independent samples. Whole blocks of
time are drawn instead (Künsch 1989), as many as there were, and every figure is worked out anew from each draw.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

from serving.load.records import Record
from serving.load.steady import FEWEST_BLOCKS, MOST_BLOCKS, independent_blocks
from serving.validate.metrics import METRICS, Metric

if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

_T = TypeVar("_T")
_PER_E = 512  # a bucket is 1/512 of its value wide
_DRAWS = 1000
_TAIL = 5
"""A quantile is only judged when at least so many values lie beyond it."""


@dataclass(frozen=True)
class Drawn:
    """Replicates of one figure, and how many blocks they were drawn from."""

    values: Array
    blocks: int


def bootstrap(records: Iterable[Record], start_s: float, end_s: float, *, seed: int = 0) -> dict[str, Drawn]:
    """Replicates of every metric that the part of a run between two times lets judge, by the metric's key."""
    import numpy as np

    sums = _Sums(start_s * 1e9, end_s * 1e9)
    for record in records:
        sums.add(record)
    source = np.random.default_rng(seed)
    found: dict[str, Drawn] = {}
    for metric in METRICS:
        drawn = sums.rates(metric, source) if metric.latency is None else sums.latencies(metric, source)
        if drawn is not None:
            found[metric.key] = drawn
    return found


def t_quantile(share: float, freedom: int) -> float:
    """Student's t by its expansion around the normal quantile; within 1 % from four degrees of freedom on."""
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** (power + 1) for power, term in enumerate(terms))


class _Sums:
    """A run in slices of time, each with its counts and the values of the requests that were due in it."""

    def __init__(self, low_ns: float, high_ns: float) -> None:
        self._low, self._span = low_ns, max(high_ns - low_ns, 1.0)
        self._rates: dict[str, list[float]] = {name: [0.0] * MOST_BLOCKS for name in _RATES}
        self._values: dict[str, list[list[tuple[float, float]]]] = {
            name: [[] for _ in range(MOST_BLOCKS)] for name in _LATENCIES
        }

    def add(self, record: Record) -> None:
        for at_ns, tokens in record.arrivals():
            if (at := self._slice(at_ns)) is not None:
                self._rates["output_tokens_per_s"][at] += tokens
        if record.error is not None:
            return
        if (at := self._slice(record.ended_ns)) is not None:
            self._rates["requests_per_s"][at] += 1
        if (due := self._slice(record.scheduled_ns)) is not None:
            for name, values in _LATENCIES.items():
                self._values[name][due] += values(record)

    def rates(self, metric: Metric, source: np.random.Generator) -> Drawn | None:
        import numpy as np

        series = self._rates[metric.key]
        if not any(series):
            return None
        sums = np.array([sum(part) for part in _cut(series, self._blocks())])
        weights = _draw(len(sums), source)
        return Drawn(weights @ sums / len(sums), len(sums))

    def latencies(self, metric: Metric, source: np.random.Generator) -> Drawn | None:
        import numpy as np

        assert metric.latency is not None
        blocks = [
            [value for values in part for value in values]
            for part in _cut(self._values[metric.latency], self._blocks())
        ]
        blocks = [block for block in blocks if block]
        tail = sum(weight for block in blocks for _, weight in block) * (1 - metric.share)
        if len(blocks) < 2 or tail < _TAIL:
            return None
        buckets = sorted({_bucket(value) for block in blocks for value, _ in block})
        place = {bucket: at for at, bucket in enumerate(buckets)}
        counts = np.zeros((len(blocks), len(buckets)))
        for number, block in enumerate(blocks):
            for value, weight in block:
                counts[number, place[_bucket(value)]] += weight
        drawn = _draw(len(blocks), source) @ counts
        values = np.exp((np.array(buckets) + 0.5) / _PER_E)
        if metric.quantile == "mean":
            return Drawn(drawn @ values / drawn.sum(axis=1), len(blocks))
        totals = np.cumsum(drawn, axis=1)
        return Drawn(values[(totals >= metric.share * totals[:, -1:]).argmax(axis=1)], len(blocks))

    def _blocks(self) -> int:
        return max(independent_blocks(self._rates["output_tokens_per_s"]), FEWEST_BLOCKS)

    def _slice(self, at_ns: float) -> int | None:
        at = (at_ns - self._low) / self._span
        return min(int(at * MOST_BLOCKS), MOST_BLOCKS - 1) if 0 <= at <= 1 else None


def _cut(series: Sequence[_T], blocks: int) -> list[Sequence[_T]]:
    edges = [len(series) * at // blocks for at in range(blocks + 1)]
    return [series[low:high] for low, high in itertools.pairwise(edges)]


def _draw(blocks: int, source: np.random.Generator) -> Array:
    """How often each block is in each draw. [draws, blocks]"""
    import numpy as np

    return source.multinomial(blocks, np.full(blocks, 1 / blocks), size=_DRAWS).astype(float)


def _bucket(value_ns: float) -> int:
    return int(math.log(max(value_ns, 1.0)) * _PER_E)


_RATES = tuple(metric.key for metric in METRICS if metric.latency is None)
_LATENCIES: Mapping[str, Callable[[Record], list[tuple[float, float]]]] = {
    "ttft_ms": lambda record: [] if record.ttft_ns is None else [(float(record.ttft_ns), 1.0)],
    "tpot_ms": lambda record: [] if record.tpot_ns is None else [(record.tpot_ns, 1.0)],
    "itl_ms": lambda record: list(record.token_gaps()),
    "e2e_ms": lambda record: [(float(record.e2e_ns), 1.0)],
}
