"""A distribution in flat memory: logarithmic buckets that are each 0.2 % wide, whatever the number of values."""

from __future__ import annotations

import math
from typing import Any

_PER_E = 512
"""Buckets per factor of e: a bucket is 1/512 of its value wide, so a quantile is within 0.1 % of the true one."""

_SMALLEST_NS = 1e3  # below a microsecond all is one bucket


class Histogram:
    """Of nanoseconds. Weights may be fractions."""

    def __init__(self) -> None:
        self._buckets: dict[int, float] = {}
        self.count = 0.0
        self.total_ns = 0.0
        self.max_ns = 0.0

    def add(self, value_ns: float, weight: float = 1.0) -> None:
        """Count a value `weight` times."""
        bucket = int(math.log(value_ns) * _PER_E) if value_ns > _SMALLEST_NS else 0
        self._buckets[bucket] = self._buckets.get(bucket, 0.0) + weight
        self.count += weight
        self.total_ns += value_ns * weight
        if value_ns > self.max_ns:
            self.max_ns = value_ns

    def merge(self, other: Histogram) -> None:
        """Take all values of another one."""
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
        wanted, seen = share * self.count, 0.0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(math.exp((bucket + 0.5) / _PER_E), self.max_ns) if bucket else _SMALLEST_NS / 2
        return math.nan

    def to_json(self) -> dict[str, Any]:
        """Buckets as (upper edge in ms, weight), ascending: enough to draw it or to merge it."""
        edges = [
            (round(math.exp((bucket + 1) / _PER_E) / 1e6, 6), self._buckets[bucket]) for bucket in sorted(self._buckets)
        ]
        return {"count": self.count, "buckets_ms": edges}
