"""What a night would do with every cell, and why: build, measure, skip, or nothing because it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from builder.depot.depot import Depot
from builder.depot.records import CellRecord, Entry
from builder.pipeline import Pipeline
from builder.plan import BuildPlan
from builder.store import Store
from serving.nightly.cells import Cell
from serving.nightly.changes import changes_between, only_the_commit_moved
from serving.nightly.estimate import Estimate, Estimator
from serving.nightly.record import Action
from serving.nightly.selector import matches, nearest
from serving.render import RepositoryRenderer
from trtllm_kit.console import Talk
from trtllm_kit.errors import KitError, SpecError

COMPARE = "compare"
Offers = Callable[[str], bool]
"""Whether the executor has a node with a SKU, to measure on."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell and what becomes of it. `changes` are empty where there is nothing to compare with."""

    cell: Cell
    action: Action
    why: str
    changes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()  # that will run
    estimate: Estimate | None = None  # of what will run

    @property
    def identifier(self) -> str:
        return self.cell.identifier

    @property
    def is_work(self) -> bool:
        return self.action in ("build", "measure")


@dataclass(frozen=True, kw_only=True)
class NightPlan:
    """Every cell in the order of the matrix."""

    cells: tuple[PlannedCell, ...]
    upstream: Mapping[str, str] = field(default_factory=dict)

    @property
    def work(self) -> tuple[PlannedCell, ...]:
        return tuple(row for row in self.cells if row.is_work)

    @property
    def broken(self) -> tuple[PlannedCell, ...]:
        """Cells whose checkpoint or machine is at fault, and not the combination."""
        return tuple(row for row in self.cells if row.cell.broken)


def plan_night(
    cells: Sequence[Cell], depot: Depot, store: Store, *, offers: Offers, force: bool = False
) -> tuple[PlannedCell, ...]:
    """Compare every cell's key with what the depot says of it. Reads no checkpoint, and writes nothing."""
    records = {str(name.identifier): version.record for name, version in depot.read_all().items()}
    blank = CellRecord()
    return tuple(_planned(cell, records.get(cell.identifier, blank), store, offers, force) for cell in cells)


def with_estimates(rows: Sequence[PlannedCell], depot: Depot, talk: Talk) -> tuple[PlannedCell, ...]:
    """The same with what the work will take; nothing is read where there is none."""
    if not any(row.is_work for row in rows):
        return tuple(rows)
    try:
        estimator = Estimator(depot)
    except KitError as error:
        talk.warn(f"no estimates: {error.happened}")
        return tuple(rows)
    return tuple(
        replace(row, estimate=estimator.of(row.cell.plan, row.stages)) if row.is_work and row.cell.plan else row
        for row in rows
    )


def _planned(cell: Cell, record: CellRecord, store: Store, offers: Offers, force: bool) -> PlannedCell:
    if cell.plan is None:
        return PlannedCell(cell=cell, action="impossible", why=cell.error.happened if cell.error else "")
    try:
        pipeline = pipeline_of(cell.plan, store)
        key = pipeline.stages["package"].key
    except KitError as error:  # rendering refuses what would contradict itself
        return PlannedCell(cell=replace(cell, plan=None, error=error), action="impossible", why=error.happened)
    same = known_key(pipeline, record)
    action, why = ("build", "asked for by --force") if force else decide(same, record, here=offers(cell.sku))
    if same != key:
        why += "; its branch moved, and no file that a build reads changed"
    if action == "skip":
        return PlannedCell(cell=cell, action="skip", why=why)
    if action == "measure":
        return PlannedCell(cell=cell, action="measure", why=why, stages=(COMPARE,))
    last = record.candidate or record.current
    changes = changes_between(last.inputs, pipeline.stages) if last else ()
    runs = [row.name for row in pipeline.reports() if row.action == "run" or force]
    if not force:
        why = "changed: " + "; ".join(changes) if changes else "never built" if last is None else "its key changed"
    return PlannedCell(cell=cell, action="build", why=why, changes=changes, stages=(*runs, COMPARE))


def pipeline_of(plan: BuildPlan, store: Store) -> Pipeline:
    """The stages of a cell."""
    return Pipeline(plan=plan, store=store, renderer=RepositoryRenderer())


def known_key(pipeline: Pipeline, record: CellRecord) -> str:
    """The key of the package stage; of a build that differs in the name of the commit alone, that build's."""
    key, entries = pipeline.stages["package"].key, record.entries().values()
    if any(entry.key == key for entry in entries):
        return key
    moved = (entry.key for entry in entries if only_the_commit_moved(entry.inputs, pipeline.stages))
    return next(moved, key)


def decide(key: str, record: CellRecord, *, here: bool) -> tuple[Action, str]:
    """By the refs: what is in service, what is a candidate, and what was said of the candidate.

    Args:
        key: of the package stage, as its inputs are now.
        here: whether a node of the cell's SKU is at hand to measure on.
    """
    if record.current is not None and record.current.key == key:
        return "skip", f"unchanged: package {key[:12]} is in service"
    if record.candidate is None or record.candidate.key != key:
        if _is_rolled_back(record, key):
            return "skip", f"rolled back: {record.words}; it stays out of service until an input changes"
        return "build", ""
    return _decide_candidate(record.candidate, record.current, here)


def _is_rolled_back(record: CellRecord, key: str) -> bool:
    """Whether a person took this very build out of service: only then is the previous build the newer one."""
    current, previous = record.current, record.previous
    return current is not None and previous is not None and previous.key == key and previous.night > current.night


def _decide_candidate(candidate: Entry, current: Entry | None, here: bool) -> tuple[Action, str]:
    verdict, name = candidate.verdict, candidate.digest[:12]
    if verdict is None:
        return "measure", f"{name} is built and was not compared yet"
    if verdict.against != (current.digest if current else None):
        return "measure", f"{name} was compared with a build that is no longer in service"
    if verdict.decision == "keep":
        return "skip", "unchanged, and rejected before: " + "; ".join(verdict.reasons)
    if verdict.decision == "not_measured" and not here:
        return "skip", "unchanged, and there is still no such GPU here to measure it"
    return "measure", f"{name} is built and was {verdict.decision.replace('_', ' ')}"


def chosen(cells: Sequence[Cell], glob: str | None) -> list[Cell]:
    """Those that `--only` selects; SpecError with the nearest identifier when there are none."""
    found = [cell for cell in cells if glob is None or matches(cell.identifier, glob)]
    if glob is not None and not found:
        near = nearest(glob, [cell.identifier for cell in cells])
        raise SpecError(
            f"--only '{glob}' matches no cell of the matrix",
            expected="a glob on an identifier" + (f", such as {near}" if near else ""),
            fix="see them with `trtllm-kit nightly plan`",
        )
    return found


def failed(cell: Cell, error: KitError) -> PlannedCell:
    """A cell that nothing can be done for, through no fault of its own."""
    broken = replace(cell, plan=None, error=error, broken=True)
    return PlannedCell(cell=broken, action="impossible", why=error.happened)
