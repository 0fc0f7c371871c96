"""A distribution in flat memory: logarithmic buckets that are each 0.2 % wide, whatever the number of values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from typing import Any

_PER_E = 512
"""Buckets per factor of e: a bucket is 1/512 of its value wide, so a quantile is within 0.1 % of the true one."""

_MOST_UNSORTED = 4096
_SMALLEST_NS = 1e3  # below a microsecond all is one bucket


class Histogram:
    """Of nanoseconds. Weights may be fractions."""

    def __init__(self) -> None:
        self._buckets: dict[int, float] = {}
        self._unsorted: Counter[int] = Counter()  # microseconds
        self.count = 0.0
        self.total_ns = 0.0
        self.max_ns = 0.0

    def add(self, value_ns: float, weight: float = 1.0) -> None:
        """Count a value `weight` times."""
        self._put(value_ns, weight)
        self.count += weight
        self.total_ns += value_ns * weight
        if value_ns > self.max_ns:
            self.max_ns = value_ns

    def add_us(self, values_us: Collection[int]) -> None:
        """Count whole microseconds, many at once: the same ones come again and again, and are sorted in together."""
        if not values_us:
            return
        self._unsorted.update(values_us)
        self.count += len(values_us)
        self.total_ns += 1e3 * sum(values_us)
        self.max_ns = max(self.max_ns, 1e3 * max(values_us))
        if len(self._unsorted) > _MOST_UNSORTED:
            self._sort_in()

    def merge(self, other: Histogram) -> None:
        """Take all values of another one."""
        other._sort_in()
        for bucket, weight in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0.0) + weight
        self.count += other.count
        self.total_ns += other.total_ns
        self.max_ns = max(self.max_ns, other.max_ns)

    @property
    def mean_ns(self) -> float:
        """The exact mean."""
        return self.total_ns / self.count if self.count else math.nan

    def quantile_ns(self, share: float) -> float:
        """The value that `share` of all are not above."""
        self._sort_in()
        wanted, seen = share * self.count, 0.0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(math.exp((bucket + 0.5) / _PER_E), self.max_ns) if bucket else _SMALLEST_NS / 2
        return math.nan

    def to_json(self) -> dict[str, Any]:
        """Buckets as (upper edge in ms, weight), ascending: enough to draw it or to merge it."""
        self._sort_in()
        edges = [
            (round(math.exp((bucket + 1) / _PER_E) / 1e6, 6), self._buckets[bucket]) for bucket in sorted(self._buckets)
        ]
        return {"count": self.count, "buckets_ms": edges}

    def _put(self, value_ns: float, weight: float) -> None:
        bucket = int(math.log(value_ns) * _PER_E) if value_ns > _SMALLEST_NS else 0
        self._buckets[bucket] = self._buckets.get(bucket, 0.0) + weight

    def _sort_in(self) -> None:
        for value_us, weight in self._unsorted.items():
            self._put(1e3 * value_us, weight)
        self._unsorted.clear()
