"""Nights as they lie in the depot, read in bulk: the plan of each, and what became of its cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from serving.nightly.night_files import cell_path, night_path
from serving.nightly.record import CellResult, NightRecord
from serving.nightly.report.states import State, state_of
from trtllm_kit.errors import IntegrityError, SpecError
from trtllm_kit.stamps import stamped_unix_s

if TYPE_CHECKING:
    from builder.depot.depot import Depot

NIGHTS = "nights"

LAST_NIGHTS = 30
"""Of trends, of the search for the last success, and of what upstream was."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """A night's record with the results of its cells. A cell of the plan that left no record has the result None."""

    record: NightRecord
    results: Mapping[str, CellResult | None]  # by identifier

    @property
    def name(self) -> str:
        return self.record.night

    @cached_property
    def states(self) -> Mapping[str, State]:
        """By identifier."""
        return {identifier: state_of(result) for identifier, result in self.results.items()}

    @property
    def duration_s(self) -> float | None:
        """None: it is at work, or was killed."""
        ended = self.record.ended_unix_s
        return None if ended is None else ended - self.record.started_unix_s

    @property
    def worked_on(self) -> list[CellResult]:
        """Cells that took any time, in the order in which they were begun."""
        found = [result for result in self.results.values() if result is not None and result.seconds > 0]
        return sorted(found, key=lambda result: result.started_unix_s)


def night_names(depot: Depot) -> list[str]:
    """All nights that the depot knows, oldest first."""
    return [path.rsplit("/", 1)[-1] for path in depot.names(NIGHTS)]


def find_night(names: Sequence[str], text: str) -> str:
    """The night that a person means: `latest`, a name, or its unique beginning. SpecError lists the last ones."""
    found = names[-1:] if text == "latest" else [name for name in names if name.startswith(text)]
    if len(found) == 1 or text in found:
        return text if text in found else found[0]
    raise SpecError(
        f"'{text}' names " + ("more than one night" if found else "no night"),
        expected="latest, or one of " + ", ".join((found or names)[-5:]) if names else "a depot with a night in it",
        fix="run one with `trtllm-kit nightly run`" if not names else "",
    )


def read_nights(depot: Depot, names: Sequence[str], *, only: str | None = None) -> list[Night]:
    """The named nights in order; `only` restricts them to one cell, which saves reading all the others.

    IntegrityError when a record is there and cannot be read.
    """
    plans = {name: night_path(name) for name in names}
    cells = {name: _cell_paths(depot, name, only) for name in names}
    texts = depot.read_texts([*plans.values(), *(path for paths in cells.values() for path in paths)])
    return [
        _night(name, texts.get(plans[name]), [texts[path] for path in cells[name] if path in texts], only)
        for name in names
    ]


def read_records(depot: Depot, names: Sequence[str]) -> list[NightRecord]:
    """Only what the named nights wrote down of themselves, in order."""
    paths = {name: night_path(name) for name in names}
    texts = depot.read_texts(paths.values())
    return [NightRecord.from_json(_parsed(texts[path], name)) for name, path in paths.items() if path in texts]


def _cell_paths(depot: Depot, night: str, only: str | None) -> list[str]:
    if only is not None:
        return [cell_path(night, only)]
    return depot.names(cell_path(night, "").rpartition("/")[0])


def _night(name: str, plan: str | None, cells: Iterable[str], only: str | None) -> Night:
    found = [CellResult.from_json(_parsed(text, name)) for text in cells]
    record = NightRecord.from_json(_parsed(plan, name)) if plan else _without_plan(name, found)
    results: dict[str, CellResult | None] = {
        identifier: None if action in ("build", "measure") else _left_alone(identifier, action)
        for identifier, action in record.cells.items()
        if only in (None, identifier)
    }
    results |= {result.identifier: result for result in found}
    return Night(record=record, results=dict(sorted(results.items())))


def _without_plan(name: str, found: Sequence[CellResult]) -> NightRecord:
    """Cells that ran by themselves, as the indices of a Kubernetes job do, or whose night was killed very early."""
    ends = [result.started_unix_s + result.seconds for result in found]
    return NightRecord(night=name, started_unix_s=stamped_unix_s(name) or 0.0, ended_unix_s=max(ends, default=None))


def _left_alone(identifier: str, action: str) -> CellResult:
    if action == "impossible":
        return CellResult(identifier=identifier, status="impossible", words="cannot be built; `nightly plan` says why")
    return CellResult(identifier=identifier, status="skipped", words="no input changed")


def _parsed(text: str, night: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise IntegrityError(
            f"a record of night {night} is not JSON: {error}", expected="what `nightly run` wrote"
        ) from None
