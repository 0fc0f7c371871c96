"""Pass, fail or undecided: a limit is kept or broken only where the whole interval says so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from builder.evaluate.bootstrap import Estimate
from builder.evaluate.limits import LIMITED

Decision = Literal["pass", "fail", "undecided"]

OVERALL = "overall"
_HOPELESS = 100  # times the text there is: more is no advice


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One metric of one slice against its limit."""

    metric: str
    slice: str
    limit: float
    estimate: Estimate
    decision: Decision
    more_tokens: int | None = None  # that an undecided one needs, about; None: no amount of text is likely to tell

    def __str__(self) -> str:
        bound = "at least" if LIMITED[self.metric].at_least else "at most"
        found = f"{self.estimate.value:.4g} [{self.estimate.low:.4g}, {self.estimate.high:.4g}]"
        return f"{LIMITED[self.metric].what}, {self.slice}: {found}, limit {bound} {self.limit:.4g}"


def judge(slices: Mapping[str, tuple[int, Mapping[str, Estimate]]], limits: Mapping[str, float]) -> list[Judgement]:
    """Every limited metric of every slice; `slices` maps a name to its tokens and metrics."""
    return [
        _judge(metric, name, tokens, found[metric], limit)
        for name, (tokens, found) in slices.items()
        for metric, limit in limits.items()
    ]


def decide(judgements: Iterable[Judgement], *, short_of: Sequence[str]) -> Decision:
    """The whole: every limit kept overall, and none broken in any slice.

    A slice alone may break a limit but need not prove that it keeps it: it has too few tokens for that, and text that
    suffers is found all the same. No correction for the number of metrics is due where all of them must pass.
    `short_of` says what there is too little of; then nothing is decided, whatever the intervals say.
    """
    judged = list(judgements)
    if short_of:
        return "undecided"
    if any(row.decision == "fail" for row in judged):
        return "fail"
    undecided = any(row.decision == "undecided" for row in judged if row.slice == OVERALL)
    return "undecided" if undecided else "pass"


def _judge(metric: str, name: str, tokens: int, estimate: Estimate, limit: float) -> Judgement:
    decision, more = _against(_as_loss(metric, estimate), _loss(metric, limit), tokens)
    return Judgement(metric=metric, slice=name, limit=limit, estimate=estimate, decision=decision, more_tokens=more)


def _against(loss: Estimate, limit: float, tokens: int) -> tuple[Decision, int | None]:
    if loss.high <= limit:
        return "pass", None
    if loss.low > limit:
        return "fail", None
    inside = loss.value <= limit
    reach = loss.high - loss.value if inside else loss.value - loss.low
    return "undecided", _more_tokens(tokens, reach, abs(limit - loss.value))


def _more_tokens(tokens: int, reach: float, distance: float) -> int | None:
    """An interval shrinks with the root of the text: how much more until `reach` is no longer than `distance`."""
    if distance <= 0 or not math.isfinite(reach) or reach > distance * math.sqrt(_HOPELESS):
        return None
    needed = tokens * ((reach / distance) ** 2 - 1)
    return max(100, math.ceil(needed / 100) * 100)


def _as_loss(metric: str, estimate: Estimate) -> Estimate:
    ends = sorted(_loss(metric, end) for end in (estimate.low, estimate.high))
    return Estimate(value=_loss(metric, estimate.value), low=ends[0], high=ends[1])


def _loss(metric: str, value: float) -> float:
    """Turned so that less is better; a limit that is met exactly stays met, for negation is exact."""
    return -value if LIMITED[metric].at_least else value
