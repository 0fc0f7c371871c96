"""Is B slower than A beyond noise: metric by metric, each change with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

from serving.validate.metrics import METRICS, Metric
from serving.validate.noise import Drawn, bootstrap, t_quantile
from serving.validate.sides import Point, Side
from trtllm_kit.errors import UsageError

TOLERANCE = 0.02
"""A change below it is too small to matter, however sure it is."""

_CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(0.975)

Status = Literal["worse", "better", "same", "unknown"]
Judged = Mapping[str, Drawn]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric at one level. `change` is B over A minus 1; `low` and `high` are None where noise is not known."""

    level: str
    metric: str
    unit: str
    a: float
    b: float
    change: float
    low: float | None
    high: float | None
    status: Status

    @property
    def words(self) -> str:
        """The row as a sentence."""
        sure = f", {self.low:+.1%} to {self.high:+.1%}" if self.low is not None and self.high is not None else ""
        figures = f"{self.b:,.4g} {self.unit} instead of {self.a:,.4g} ({self.change:+.1%}{sure})"
        return f"at {self.level}, {self.metric} is {figures}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All rows. Their intervals hold together with 95 %: the more rows, the wider each (Bonferroni)."""

    a: str
    b: str
    rows: tuple[Row, ...]
    unmatched: tuple[str, ...]  # levels that only one side has
    notes: tuple[str, ...] = ()  # what a side's figures are not

    @property
    def worse(self) -> bool:
        """Whether any metric is worse beyond noise and tolerance."""
        return any(row.status == "worse" for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "worse": self.worse}


def compare(a: Side, b: Side, *, tolerance: float = TOLERANCE) -> Comparison:
    """Level by level, by name; two sides of one level each are compared whatever their names.

    UsageError when they have no level in common.
    """
    pairs = list(_pairs(a, b))
    if not pairs:
        raise UsageError(
            f"{a.name} and {b.name} have no level in common",
            expected=f"equal loads; A has {_names(a)}, B has {_names(b)}",
            fix="run both with the same --concurrency or --rate",
        )
    found = [
        (metric, one, other)
        for one, other in pairs
        for metric in METRICS
        if metric.of(one.level) and metric.of(other.level)
    ]
    drawn = {id(point): _bootstrap(point) for pair in pairs for point in pair}
    share = 1 - (1 - _CONFIDENCE) / 2 / max(len(found), 1)
    rows = tuple(_row(metric, one, other, drawn, share, tolerance) for metric, one, other in found)
    matched = {point.name for pair in pairs for point in pair}
    single = tuple(point.name for point in (*a.points, *b.points) if point.name not in matched)
    notes = tuple(dict.fromkeys(note for pair in pairs for point in pair for note in point.level.get("notes", ())))
    return Comparison(a=a.name, b=b.name, rows=rows, unmatched=single, notes=notes)


def _pairs(a: Side, b: Side) -> Iterator[tuple[Point, Point]]:
    if len(a.points) == len(b.points) == 1:
        yield a.points[0], b.points[0]
        return
    theirs = {point.name: point for point in b.points}
    yield from ((point, theirs[point.name]) for point in a.points if point.name in theirs)


def _bootstrap(point: Point) -> Judged:
    records = point.records()
    if records is None:
        return {}
    window = point.level["window"]
    return bootstrap(records, float(window["start_s"]), float(window["end_s"]))


def _row(metric: Metric, a: Point, b: Point, drawn: Mapping[int, Judged], share: float, tolerance: float) -> Row:
    old, new = metric.of(a.level), metric.of(b.level)
    assert old is not None and new is not None
    step = math.log(new[0] / old[0])
    half = _half_width(metric, old, new, drawn[id(a)].get(metric.key), drawn[id(b)].get(metric.key), share)
    low, high = (math.expm1(step - half), math.expm1(step + half)) if half is not None else (None, None)
    return Row(
        level=a.name,
        metric=metric.name,
        unit=metric.unit,
        a=old[0],
        b=new[0],
        change=math.expm1(step),
        low=low,
        high=high,
        status=_status(metric, math.expm1(step), low, high, tolerance),
    )


def _half_width(
    metric: Metric,
    old: tuple[float, float | None],
    new: tuple[float, float | None],
    a: Drawn | None,
    b: Drawn | None,
    share: float,
) -> float | None:
    """Of the logarithm of B over A: by the records where both have them, else by the intervals that were reported."""
    if a is not None and b is not None:
        import numpy as np

        errors = [float(np.std(np.log(np.maximum(one.values, 1e-9)))) for one in (a, b)]
        return t_quantile(share, min(a.blocks, b.blocks) - 1) * math.hypot(*errors)
    if old[1] is None or new[1] is None:
        return None
    relative = math.hypot(old[1] / old[0], new[1] / new[0])
    return relative / _Z * NormalDist().inv_cdf(share)


def _status(metric: Metric, change: float, low: float | None, high: float | None, tolerance: float) -> Status:
    if low is None or high is None:
        return "unknown"
    if abs(change) <= tolerance or low <= 0 <= high:
        return "same"
    return "better" if (change > 0) == metric.higher_is_better else "worse"


def _names(side: Side) -> str:
    return ", ".join(point.name for point in side.points) or "none"
