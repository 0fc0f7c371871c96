"""The highest rate or concurrency at which (nearly) every request still meets its SLO, between two measured levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

from serving.validate.levels import Level
from serving.validate.load import Load, Offer
from serving.validate.results import Status

GOOD_SHARE = 0.99
_STEP = 2.0
_LEAST_RATE = 0.01
_FINE = 1.08
"""How near the two ends come, as a ratio; neighbouring concurrencies are as near as they can be."""

Kind = Literal["rate", "concurrency"]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, from where, and how far."""

    kind: Kind
    start: float = 1.0
    most: float = 4096.0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One level of the search with the 95 % interval of its share of good requests."""

    value: float
    good_share: float
    low: float
    high: float
    judged: int
    level: str

    @property
    def holds(self) -> bool:
        """Whether it is within the SLO."""
        return self.good_share >= GOOD_SHARE


@dataclass(frozen=True, kw_only=True)
class Found:
    """`best` held in two independent runs; `beyond` is the lowest level above it that did not, None if none failed."""

    kind: Kind
    best: float | None
    beyond: float | None
    confirmed: bool
    output_tokens_per_s: float | None
    goodput_per_s: float | None
    probes: tuple[Probe, ...]
    ended: str = ""  # a bad end of the last run

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def find_max(search: Search, load: Load, run: Callable[[Offer], Level | None]) -> Found:
    """Double until a level fails, halve the gap on a logarithmic scale, then confirm the best with other prompts."""
    hunt = _Hunt(search, load, run)
    value = search.start
    while hunt.probe(value) and value < search.most:
        value = min(value * _STEP, search.most)
    while hunt.best is None and (lower := hunt.below()) is not None:
        hunt.probe(lower)
    while hunt.best is not None and not hunt.ended:
        if (between := hunt.between()) is not None:
            hunt.probe(between)
        elif hunt.confirm():
            break
    return hunt.found()


def judge_search(found: Found) -> tuple[Status, tuple[str, ...]]:
    """A search that ended well passes; that nothing holds is a failure."""
    if found.best is None:
        worst = min(found.probes, key=lambda probe: probe.value, default=None)
        at = f"at {worst.value:g} only {worst.good_share:.1%} of the requests are" if worst else "nothing was measured"
        return "fail", (f"no {found.kind} is within the SLO: {at}",)
    unit = " req/s" if found.kind == "rate" else ""
    reach = f"below {found.beyond:.4g}{unit}, which misses it" if found.beyond else "nothing higher was tried"
    said = f"highest {found.kind} within the SLO: {found.best:.4g}{unit} ({reach})"
    return ("pass", (said,)) if found.confirmed else ("warn", (said, "it was not confirmed by a second run"))


def interval(good: float, judged: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that was seen in `judged` trials."""
    if not judged:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    centre = good + z * z / (2 * judged)
    spread = z * math.sqrt(good * (1 - good) / judged + z * z / (4 * judged * judged))
    scale = 1 + z * z / judged
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


class _Hunt:
    """What is known so far: every probe, and by them the best level that holds and the lowest that does not."""

    def __init__(self, search: Search, load: Load, run: Callable[[Offer], Level | None]) -> None:
        self._search, self._load, self._run = search, load, run
        self._probes: list[Probe] = []
        self._levels: dict[float, Level] = {}
        self._failed: set[float] = set()
        self._confirmed: float | None = None
        self.ended = ""

    @property
    def best(self) -> float | None:
        beyond = self.beyond
        held = [probe.value for probe in self._probes if probe.value not in self._failed]
        return max((value for value in held if beyond is None or value < beyond), default=None)

    @property
    def beyond(self) -> float | None:
        return min(self._failed, default=None)

    def probe(self, value: float, *, again: int = 0) -> bool:
        """Whether this level holds; False as well when the run ended badly."""
        load = self._load
        offer = load.closed_loop(round(value)) if self._search.kind == "concurrency" else load.open_loop(value)
        level = self._run(offer.again(again))
        if level is None or level.reason in ("interrupted", "unreachable"):
            self.ended = level.reason if level is not None else "interrupted"
            return False
        share, judged = level.good_share or 0.0, level.requests - level.unfinished
        low, high = interval(share, judged)
        probe = Probe(value=value, good_share=share, low=low, high=high, judged=judged, level=level.name)
        self._probes.append(probe)
        if not probe.holds:
            self._failed.add(value)
        self._levels.setdefault(value, level)
        return probe.holds

    def confirm(self) -> bool:
        """A second run of the best level; when it does not hold, the best is what is below it."""
        best = self.best
        assert best is not None
        self._confirmed = best if self.probe(best, again=1) else None
        return self._confirmed is not None

    def below(self) -> float | None:
        """A lower level to try where none has held yet; None when it would be less than a user, or next to nothing."""
        if self.ended or self.beyond is None:
            return None
        lower = self.beyond / _STEP
        return lower if lower >= (1 if self._search.kind == "concurrency" else _LEAST_RATE) else None

    def between(self) -> float | None:
        """The next level to try; None when the ends are near enough."""
        best, beyond = self.best, self.beyond
        if self.ended or best is None or beyond is None:
            return None
        middle = math.sqrt(best * beyond)
        middle = float(round(middle) if self._search.kind == "concurrency" else f"{middle:.3g}")
        return middle if best < middle < beyond and beyond / best > _FINE else None

    def found(self) -> Found:
        best = self.best
        level = self._levels.get(best) if best is not None else None
        return Found(
            kind=self._search.kind,
            best=best,
            beyond=self.beyond,
            confirmed=best is not None and best == self._confirmed,
            output_tokens_per_s=level.output_tokens_per_s if level else None,
            goodput_per_s=level.goodput_per_s if level else None,
            probes=tuple(self._probes),
            ended=self.ended,
        )
