"""A night as Prometheus' textfile metrics, for node_exporter's textfile collector or a push by `curl`.

Names carry base units, times are Unix seconds (`time() - x` is an age), and a state is one series of value 1 among its
siblings of value 0, as OpenMetrics' state sets are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from builder.depot.records import CellName, CellRecord, Decision
from serving.nightly.report.metrics import METRICS
from serving.nightly.report.nights import Night
from serving.nightly.report.states import STATES
from serving.nightly.report.summary import Summary
from trtllm_kit.errors import BuildStepError
from trtllm_kit.identifier import BuildIdentifier
from trtllm_kit.stamps import stamped_unix_s

_NIGHT = "trtllm_kit_nightly_"
_CELL = "trtllm_kit_nightly_cell_"
_DECISIONS = get_args(Decision)

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """One metric with its series; all of them are gauges."""

    name: str
    help: str
    rows: Sequence[tuple[Labels, float]]

    def lines(self) -> Iterator[str]:
        """In the text format, version 0.0.4."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} gauge"
        for labels, value in self.rows:
            inner = ",".join(f'{key}="{_quoted(text)}"' for key, text in labels.items())
            yield f"{self.name}{{{inner}}} {value:.10g}" if inner else f"{self.name} {value:.10g}"


def exposition(summary: Summary, refs: Mapping[CellName, CellRecord], *, ran_unix_s: float | None = None) -> str:
    """The whole file. `refs` are the depot's records, of which the age of what is in service is taken.

    Args:
        ran_unix_s: when the nightly last looked; None: when the night ended. A run that finds nothing changed leaves no
            record, so this is how a watcher tells it from one that did not run.
    """
    families = [*_night(summary, ran_unix_s), *_cells(summary), *_services(summary, refs)]
    return "".join(f"{line}\n" for family in families if family.rows for line in family.lines())


def _night(summary: Summary, ran_unix_s: float | None) -> Iterator[Family]:
    night = summary.night
    ended, took = night.record.ended_unix_s, night.duration_s
    good = _last_success(night, summary.earlier, ran_unix_s)
    ran = max((at for at in (ran_unix_s, ended) if at is not None), default=None)
    yield _single("start_timestamp_seconds", "When the last night with work to do began.", night.record.started_unix_s)
    yield _single("last_run_timestamp_seconds", "When the nightly last ran to its end, changes or none.", ran)
    yield _single("last_success_timestamp_seconds", "When a run last ended without a failed cell.", good)
    yield _single("duration_seconds", "How long the last night with work to do took.", took)
    yield _single("exit_code", "0 all fine, 7 a candidate was rejected, 9 cells failed.", float(summary.exit_code))
    counts = [({"state": name}, float(summary.counts.get(name, 0))) for name in STATES]
    yield Family(f"{_NIGHT}cells", "Cells of the last night by what became of them.", counts)


def _last_success(night: Night, earlier: Sequence[Night], ran_unix_s: float | None) -> float | None:
    good = [
        one.record.ended_unix_s
        for one in (*earlier, night)
        if one.record.ended_unix_s is not None
        and not any(state.exit_code == BuildStepError.exit_code for state in one.states.values())
    ]
    return max([*good, *([ran_unix_s] if ran_unix_s is not None else [])], default=None)


def _cells(summary: Summary) -> Iterator[Family]:
    rows = [(_labels(identifier), state, result) for identifier, state, result in summary.by_urgency]
    states = [({**labels, "state": name}, float(name == state.name)) for labels, state, _ in rows for name in STATES]
    yield Family(f"{_CELL}state", "What became of the cell in the last night; 1 for that state.", states)
    decided = [
        ({**labels, "decision": name}, float(name == result.decision))
        for labels, _, result in rows
        if result is not None and result.decision
        for name in _DECISIONS
    ]
    yield Family(f"{_CELL}decision", "What was decided on the cell's candidate; 1 for that decision.", decided)
    took = [(labels, result.seconds) for labels, _, result in rows if result is not None and result.seconds]
    yield Family(f"{_CELL}duration_seconds", "How long the cell took in the last night.", took)


def _services(summary: Summary, refs: Mapping[CellName, CellRecord]) -> Iterator[Family]:
    """What is known of the builds in service, by the last night that measured each."""
    identifiers = sorted(summary.night.results)
    for metric in METRICS.values():
        if metric.prometheus is None:
            continue
        name, factor = metric.prometheus
        last = [
            (_labels(cell), trend[-1][1] * factor) for cell in identifiers if (trend := summary.trend(cell, metric.key))
        ]
        yield Family(f"{_CELL}{name}", f"Of the build in service, when it was last measured: {metric.title}.", last)
    built = [
        (_labels(str(cell.identifier)), began)
        for cell, record in sorted(refs.items())
        if record.current is not None and (began := stamped_unix_s(record.current.night))
    ]
    yield Family(f"{_CELL}built_timestamp_seconds", "When the build in service was built.", built)


def _single(name: str, words: str, value: float | None) -> Family:
    return Family(f"{_NIGHT}{name}", words, [] if value is None else [({}, value)])


def _labels(identifier: str) -> Labels:
    cell = CellName.of(BuildIdentifier.parse(identifier))
    return {"model": cell.model, "precision": cell.precision, "sku": cell.sku, "layout": cell.layout}


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
