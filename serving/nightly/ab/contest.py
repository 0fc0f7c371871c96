"""Rounds until every metric of speed is decided, or the time is up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from builder.depot.records import Decision
from serving.nightly.ab.rounds import Round, Rounds
from serving.nightly.ab.rule import Rule
from serving.nightly.ab.speed import Row, judge
from serving.nightly.record import Figure
from trtllm_kit.console import Talk


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What becomes of a candidate, and why."""

    decision: Decision
    reasons: tuple[str, ...]
    figures: tuple[Figure, ...] = ()


def contest(rounds: Rounds, rule: Rule, usd_per_hour: float | None, talk: Talk) -> Comparison:
    """Promote when the whole interval of every metric is within its margin, keep when one lies wholly beyond, undecided
    when the rule's minutes are spent. LostError when a side drops out."""
    began = time.monotonic()
    played: list[Round] = []
    for each in rounds.play():
        played.append(each)
        rows = judge(played, rule, usd_per_hour)
        spent_s = time.monotonic() - began
        talk.progress(spent_s, 60 * rule.minutes, f"A/B: {_state(rows)} after {len(played)} rounds")
        decision = decide([row.figure for row in rows])
        out_of_time = spent_s + spent_s / len(played) > 60 * rule.minutes
        if decision != "undecided" or out_of_time:
            figures = tuple(row.figure for row in rows)
            return Comparison(
                decision=decision, reasons=_reasons(decision, rows, len(played), spent_s, rule), figures=figures
            )
    raise AssertionError("rounds have no end")


def decide(figures: Sequence[Figure]) -> Decision:
    """One that is worse keeps the incumbent; one that is open leaves it undecided."""
    statuses = {figure.status for figure in figures}
    return "keep" if "worse" in statuses else "undecided" if "open" in statuses else "promote"


def _reasons(decision: Decision, rows: Sequence[Row], rounds: int, spent_s: float, rule: Rule) -> tuple[str, ...]:
    if decision == "promote":
        return (
            f"no metric of speed is worse than its limit, with {rule.confidence:.0%} confidence after {rounds} rounds",
        )
    if decision == "keep":
        return tuple(row.words for row in rows if row.figure.status == "worse")
    return tuple(f"{row.words}: {_more(row, rounds, spent_s)}" for row in rows if row.figure.status == "open")


def _more(row: Row, rounds: int, spent_s: float) -> str:
    if row.rounds_to_tell is None:
        return "it lies so near its limit that more rounds will hardly tell"
    # A proof can be one round away and the estimate says none: the next round decides.
    more = max(1, row.rounds_to_tell - rounds)
    return f"about {more} more rounds would tell, promotion.minutes {spent_s / rounds * (rounds + more) / 60:.0f}"


def _state(rows: Sequence[Row]) -> str:
    undecided = [row.figure.metric for row in rows if row.figure.status == "open"]
    return f"{len(rows) - len(undecided)} of {len(rows)} metrics decided"
