"""Since when a cell is slower, and what changed that night: its nights in a row, and the jumps in its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serving.nightly.record import CellResult
from serving.nightly.report.changepoint import FEWEST, Jump, jumps
from serving.nightly.report.differences import differences, last_known
from serving.nightly.report.metrics import METRICS, Metric, metric_of, percent, step
from serving.nightly.report.nights import Night
from serving.nightly.report.series import Role, measured, series
from serving.nightly.report.states import state_of
from trtllm_kit.errors import SpecError

ROLES: tuple[Role, ...] = ("in service", "candidate")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One night in which something was done to the cell, or several in a row in which nothing was."""

    nights: tuple[str, ...]
    state: str
    candidate: str | None  # digests
    current: str | None
    words: str
    changes: tuple[str, ...]
    figures: Mapping[str, tuple[float, float | None]]  # by metric: candidate, in service


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A jump of one metric, with what was different in the night in which it came."""

    metric: Metric
    role: Role
    night: str
    jump: Jump
    nights_since: int  # that measured it, the first one included
    same_build: bool  # the build is the one of before: what changed is around it
    changes: tuple[str, ...]  # since the measurement before
    nights_between: int  # that did not measure it, since the measurement before

    @property
    def worse(self) -> bool:
        return (self.jump.change > 0) != self.metric.higher_is_better

    @property
    def sentence(self) -> str:
        """All of it for a person."""
        jump, metric = self.jump, self.metric
        who = "" if self.role == "in service" else " of candidates"
        way = "worse" if self.worse else "better"
        levels = step(jump.before, jump.after, metric.unit)
        sure = "p < 0.001" if jump.p_value < 0.001 else f"p = {jump.p_value:.3f}"
        build = "the same build measured anew, so not the build itself; " if self.same_build else ""
        changes = "; ".join(self.changes) or "nothing that nights write down changed"
        when = f"that night or in the {self.nights_between} before it" if self.nights_between else "that night"
        return (
            f"{metric.title}{who} {way} since night {self.night}: {levels} ({percent(jump.change)}, beyond noise, "
            f"{sure}); {build}{when}: {changes}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self),
            "metric": self.metric.key,
            "unit": self.metric.unit,
            "jump": {**asdict(self.jump), "change": self.jump.change},
            "worse": self.worse,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, kw_only=True)
class History:
    """All of a cell."""

    identifier: str
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]  # measurements of the build in service, by metric

    @property
    def answer(self) -> list[str]:
        """The sentences, one for each metric at least."""
        lines = [finding.sentence for finding in self.findings]
        found = {finding.metric.key for finding in self.findings}
        lines += [self._nothing(metric) for metric in self.metrics if metric.key not in found]
        return lines or [f"no night has measured {self.identifier} yet"]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "identifier": self.identifier,
            "answer": self.answer,
            "findings": [finding.to_json() for finding in self.findings],
            "nights": [asdict(row) for row in self.rows],
        }

    def _nothing(self, metric: Metric) -> str:
        count = self.counts[metric.key]
        if count < FEWEST:
            return f"{metric.title}: {count} of the {FEWEST} nights that it takes to tell a change from noise"
        return f"{metric.title}: no change beyond noise in {count} nights"


def history(nights: Sequence[Night], identifier: str, metric: str | None = None) -> History:
    """The history of a cell over `nights`, oldest first; of one metric, or of all that were ever measured.

    SpecError for a cell that is in none of the nights, or a metric that none of them measured.
    """
    units = measured(nights, identifier)
    _check_known(nights, identifier, metric, units)
    wanted = [key for key in (*METRICS, *sorted(units.keys() - METRICS.keys())) if key in units]
    metrics = tuple(metric_of(key, units[key]) for key in wanted if metric in (None, key))
    findings = [one for row in metrics for one in _findings(nights, identifier, row)]
    return History(
        identifier=identifier,
        metrics=metrics,
        rows=tuple(_rows(nights, identifier)),
        findings=tuple(sorted(findings, key=lambda one: (one.role != "in service", not one.worse))),
        counts={row.key: len(series(nights, identifier, row.key, "in service")) for row in metrics},
    )


def _check_known(nights: Sequence[Night], identifier: str, metric: str | None, units: Mapping[str, str]) -> None:
    if not any(identifier in night.results for night in nights):
        raise SpecError(
            f"no night knows {identifier}",
            expected="a cell of nightly.yaml that a night has come by",
            fix="see `trtllm-kit nightly report` for the cells of the last night",
        )
    if metric is not None and metric not in units:
        raise SpecError(
            f"no night has measured {metric} of {identifier}",
            expected="one of " + (", ".join(sorted(units)) or "none yet: nothing was compared so far"),
        )


def _rows(nights: Sequence[Night], identifier: str) -> list[Row]:
    """Nights in which nothing was done are one row until something is."""
    rows: list[Row] = []
    for night in nights:
        if identifier not in night.results:
            continue
        row = _row(night.name, night.results[identifier])
        if rows and row.state == rows[-1].state == "unchanged":
            rows[-1] = Row(**{**vars(rows[-1]), "nights": (*rows[-1].nights, night.name)})
        else:
            rows.append(row)
    return rows


def _row(night: str, result: CellResult | None) -> Row:
    state = state_of(result)
    return Row(
        nights=(night,),
        state=state.name,
        candidate=result.artifact if result else None,
        current=result.current if result else None,
        words=result.words if result else state.meaning,
        changes=result.changes if result else (),
        figures={one.metric: (one.candidate, one.incumbent) for one in result.figures} if result else {},
    )


def _findings(nights: Sequence[Night], identifier: str, metric: Metric) -> list[Finding]:
    """Of the build in service, and those of candidates that never came into service."""
    found = [finding for role in ROLES for finding in _of_role(nights, identifier, metric, role)]
    served = {finding.night for finding in found if finding.role == "in service"}
    return [finding for finding in found if finding.role == "in service" or finding.night not in served]


def _of_role(nights: Sequence[Night], identifier: str, metric: Metric, role: Role) -> list[Finding]:
    points = series(nights, identifier, metric.key, role)
    place = {night.name: at for at, night in enumerate(nights)}
    found = []
    for jump in jumps([point.value for point in points]):
        point, last = points[jump.at], points[jump.at - 1]
        at, measured_before, same_build = place[point.night], place[last.night], point.digest == last.digest
        result = nights[at].results[identifier]
        inputs = result.changes if result and not same_build else ()
        around = differences(_known_until(nights, measured_before), _known_until(nights, at))
        found.append(
            Finding(
                metric=metric,
                role=role,
                night=point.night,
                jump=jump,
                nights_since=len(points) - jump.at,
                same_build=same_build,
                changes=(*inputs, *map(str, around)),
                nights_between=at - measured_before - 1,
            )
        )
    return found


def _known_until(nights: Sequence[Night], last: int) -> dict[str, str]:
    return last_known(night.record for night in nights[: last + 1])
