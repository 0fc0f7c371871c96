"""From a matrix file to a plan and to a night: what `plan` and `run` have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from builder.depot.depot import Depot
from builder.digests import DigestCache
from builder.store import Store
from serving.nightly import spec as nightly_spec
from serving.nightly.cells import Matrix, resolve_cells
from serving.nightly.checkpoints import Checkpoints
from serving.nightly.executors.protocol import CellTask
from serving.nightly.executors.table import executor_of, offers_of
from serving.nightly.night_files import NightFiles
from serving.nightly.plan import NightPlan, PlannedCell, chosen, failed, plan_night, with_estimates
from serving.nightly.record import new_night
from serving.nightly.report.differences import last_known
from serving.nightly.report.nights import LAST_NIGHTS, night_names, read_records
from serving.nightly.run import Night
from serving.nightly.stack import Stack
from serving.nightly.tasks import task_of
from serving.nightly.watch import upstream
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError, KitError, UsageError


@dataclass(frozen=True, kw_only=True)
class Session:
    """One matrix, one local store, one depot."""

    path: Path
    store: Store
    talk: Talk
    recheck: bool = False  # read every byte of the checkpoints again

    @cached_property
    def nightly(self) -> nightly_spec.Nightly:
        return nightly_spec.load(self.path)

    @cached_property
    def url(self) -> str:
        return self.nightly.depot_url(self.store)

    @cached_property
    def depot(self) -> Depot:
        return Depot.open(self.url)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(digests=DigestCache(self.store.digests_file, recheck=self.recheck), talk=self.talk)

    @cached_property
    def stack(self) -> Stack:
        return Stack(remembered=self._last_upstream)

    @cached_property
    def matrix(self) -> Matrix:
        """Resolved once; the warnings are said then."""
        matrix = resolve_cells(self.nightly, self.checkpoints, self.stack)
        for warning in matrix.warnings:
            self.talk.warn(warning)
        return matrix

    def plan(self, *, only: str | None = None, force: bool = False) -> NightPlan:
        """What a night would do, with estimates of its work. Raises HostError when the depot cannot be reached."""
        offers = offers_of(self.nightly.spec.executor)
        cells = plan_night(chosen(self.matrix.cells, only), self.depot, self.store, offers=offers, force=force)
        cells = with_estimates(cells, self.depot, self.talk)
        return NightPlan(cells=cells, upstream=self._upstream())

    def plan_or_failures(self, *, only: str | None = None, force: bool = False) -> NightPlan:
        """As `plan`; without a depot no cell can be worked on, and each says so: that night has a report as well."""
        cells = chosen(self.matrix.cells, only)
        try:
            return self.plan(only=only, force=force)
        except HostError as error:
            return NightPlan(cells=tuple(failed(cell, error) for cell in cells), upstream=self._upstream())

    def _upstream(self) -> dict[str, str]:
        return {**self.checkpoints.upstream(), **self.stack.upstream()}

    def _last_upstream(self) -> dict[str, str]:
        """What the last nights wrote down; nothing without a depot, which is complained of where it is needed."""
        try:
            return last_known(read_records(self.depot, night_names(self.depot)[-LAST_NIGHTS:]))
        except KitError:
            return {}

    def night(self, plan: NightPlan, *, jobs: int | None = None) -> Night:
        """A night that is to carry out the plan; what upstream means tonight is asked for now.

        Args:
            jobs: cells at once, in place of the matrix' own.
        """
        settings = self.nightly.spec.executor
        if jobs is not None:
            if settings.kind != "local":
                raise UsageError(f"--jobs is for the local executor, and the matrix has {settings.kind}")
            settings = settings.model_copy(update={"jobs": jobs})
        return Night(
            name=new_night(),
            plan=replace(plan, upstream=upstream(self.nightly, plan.upstream)),
            files=NightFiles(self.url, self.store),
            executor=executor_of(settings),
            matrix=self.nightly.fingerprint,
            talk=self.talk,
        )

    def tasks(self, plan: NightPlan, night: str, *, force: bool = False) -> list[CellTask]:
        """Tasks of the plan's work, the longest first, so that none is left over at the end."""
        return [self.task(row, night, force=force) for row in sorted(plan.work, key=_minutes, reverse=True)]

    def task(self, row: PlannedCell, night: str, *, force: bool = False) -> CellTask:
        executor = self.nightly.spec.executor
        return task_of(
            row,
            night=night,
            nightly=self.nightly,
            depot=self.url,
            store=self.store if executor.kind == "local" else None,
            offers=offers_of(executor),
            force=force,
        )


def _minutes(row: PlannedCell) -> float:
    """What nobody knows may be long."""
    minutes = row.estimate.minutes if row.estimate else None
    return float("inf") if minutes is None else minutes
