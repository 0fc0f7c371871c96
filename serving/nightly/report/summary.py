"""A night in one sentence, in counts and as JSON: what the page, the terminal, Prometheus and the webhook all say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from serving.nightly.record import CellResult
from serving.nightly.report.differences import Difference, upstream_changes
from serving.nightly.report.nights import Night
from serving.nightly.report.series import measured, series
from serving.nightly.report.states import STATES, State, exit_code, urgency

_VERDICTS = {0: ("fine", "pass"), 7: ("rejected", "warn"), 9: ("failed", "fail")}
_ENDLESS = ("not finished", "fail")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A night beside those before it, oldest first."""

    night: Night
    earlier: Sequence[Night]

    @property
    def exit_code(self) -> int:
        """9 when cells failed, else 7 when a candidate was rejected, else 0."""
        return exit_code(self.night.states.values())

    @property
    def verdict(self) -> tuple[str, str]:
        """(word, class of the page's style)."""
        return _ENDLESS if self.night.duration_s is None else _VERDICTS[self.exit_code]

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Cells by the name of their state, what needs a person first."""
        found = Counter(state.name for state in self.night.states.values())
        return {name: found[name] for name in STATES if found[name]}

    @cached_property
    def upstream(self) -> list[Difference]:
        """What changed around the cells since the nights before."""
        return upstream_changes(self.night, self.earlier)

    @property
    def sentence(self) -> str:
        """The whole night for somebody who reads nothing else."""
        count, took = len(self.night.results), self.night.duration_s
        parts = ", ".join(f"{number} {name}" for name, number in self.counts.items()) or "nothing to do"
        cells = f"{count} cell{'' if count == 1 else 's'}: {parts}"
        if took is not None:
            return f"{cells}; it took {duration(took)}"
        return f"{cells}; it has no end: it was killed or is still at work"

    @cached_property
    def by_urgency(self) -> list[tuple[str, State, CellResult | None]]:
        """Every cell with its state, what needs a person first."""
        rows = [
            (identifier, self.night.states[identifier], result) for identifier, result in self.night.results.items()
        ]
        return sorted(rows, key=lambda row: (urgency(row[1]), row[0]))

    @property
    def troubles(self) -> list[str]:
        """One line for each cell that failed or whose candidate was rejected."""
        return [f"{name}: {words_of(state, result)}" for name, state, result in self.by_urgency if state.exit_code]

    def trend(self, identifier: str, metric: str) -> list[tuple[str, float]]:
        """(night, value) of the build in service, oldest first."""
        nights = [*self.earlier, self.night]
        return [(point.night, point.value) for point in series(nights, identifier, metric, "in service")]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        nights = [*self.earlier, self.night]
        return {
            "night": self.night.name,
            "verdict": self.verdict[0],
            "sentence": self.sentence,
            "exit_code": self.exit_code,
            "duration_s": self.night.duration_s,
            "counts": dict(self.counts),
            "upstream_changes": [asdict(one) for one in self.upstream],
            "record": self.night.record.to_json(),
            "cells": [
                {
                    "identifier": identifier,
                    "state": state.name,
                    "words": words_of(state, result),
                    "result": None if result is None else result.to_json(),
                    "trends": {name: self.trend(identifier, name) for name in measured(nights, identifier)},
                }
                for identifier, state, result in self.by_urgency
            ],
        }


def words_of(state: State, result: CellResult | None) -> str:
    """What a cell says of itself; for one without a record what is known all the same."""
    return f"{state.name}: {state.meaning}" if result is None else result.words


def duration(seconds: float) -> str:
    """As people say it: ``12 s``, ``41 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
