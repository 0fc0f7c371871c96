"""A night: the plan's work through an executor, and every end recorded, however it came."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from builder.depot.depot import Depot
from serving.nightly.executors.protocol import CellTask, Executor, Finish
from serving.nightly.night_files import NightFiles, cell_path, night_path
from serving.nightly.plan import NightPlan, PlannedCell
from serving.nightly.record import CellResult, NightRecord
from serving.nightly.report.states import exit_code, state_of
from trtllm_kit import __version__
from trtllm_kit.console import Talk
from trtllm_kit.errors import BuildStepError, KitError


@dataclass(kw_only=True)
class Night:
    """A night at work. `results` grow; cells that are skipped have none."""

    name: str
    plan: NightPlan
    files: NightFiles
    executor: Executor
    matrix: str  # fingerprint of nightly.yaml
    talk: Talk
    results: dict[str, CellResult] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return exit_code(state_of(self.results.get(row.identifier)) for row in self.plan.cells if row.action != "skip")


def run_night(night: Night, tasks: Sequence[CellTask]) -> NightRecord:
    """Run the tasks. On an interrupt what runs is ended, what is finished is recorded, and the interrupt goes on."""
    record = NightRecord(
        night=night.name,
        started_unix_s=round(time.time(), 3),
        executor=night.executor.name,
        matrix=night.matrix,
        cells={row.identifier: row.action for row in night.plan.cells},
        upstream=night.plan.upstream,
        versions={"trtllm-kit": __version__},
    )
    night.files.send_unsent()
    night.files.write_record(night_path(night.name), record)
    for row in night.plan.cells:
        if row.action == "impossible":
            _settle(night, _impossible(row))
    try:
        _work(night, _admitted(night, tasks))
    finally:
        record = replace(record, ended_unix_s=round(time.time(), 3), exit_code=night.exit_code)
        night.files.write_record(night_path(night.name), record)
        if night.files.problem is not None:
            night.talk.warn(f"{night.files.problem.happened}; the records are in {night.files.unsent_folder}")
            _copy(night, record, night.files.unsent)
    return record


def _work(night: Night, tasks: Sequence[CellTask]) -> None:
    if not tasks:
        return
    with contextlib.closing(night.executor.run(tasks, night.talk)) as finishes:  # type: ignore[type-var]
        for done, finish in enumerate(finishes, start=1):
            result = _result_of(night, finish)
            night.results[result.identifier] = result
            failed = sum(state_of(row).exit_code == BuildStepError.exit_code for row in night.results.values())
            count = f"{done} of {len(tasks)} done" + (f", {failed} failed" if failed else "")
            night.talk.say(f"{count}: {result.identifier}: {result.words} ({result.seconds:.0f} s)")
            night.talk.progress(done, len(tasks), "cells")


def _admitted(night: Night, tasks: Sequence[CellTask]) -> list[CellTask]:
    """Tasks that some node can run; of the others it is recorded at once why not."""
    refused: Mapping[str, str]
    try:
        refused, code = night.executor.preflight(tasks), BuildStepError.exit_code
    except KitError as error:
        refused, code = {task.identifier: error.happened for task in tasks}, error.exit_code
    for identifier, words in refused.items():
        failed = CellResult(identifier=identifier, status="failed", words=words, exit_code=code, stage="preflight")
        _settle(night, failed)
    return [task for task in tasks if task.identifier not in refused]


def _impossible(row: PlannedCell) -> CellResult:
    """A hole of the matrix; or a failure, where the checkpoint or the machine is at fault."""
    if row.cell.broken and row.cell.error is not None:
        code = row.cell.error.exit_code
        return CellResult(identifier=row.identifier, status="failed", words=row.why, exit_code=code, stage="fetch")
    return CellResult(identifier=row.identifier, status="impossible", words=row.why)


def _settle(night: Night, result: CellResult) -> None:
    """Record a result that took no process."""
    result = replace(result, words=result.words.splitlines()[0], started_unix_s=round(time.time(), 3))
    night.results[result.identifier] = result
    (night.talk.warn if result.status == "failed" else night.talk.say)(f"{result.identifier}: {result.words}")
    night.files.write_record(cell_path(night.name, result.identifier), result)


def _result_of(night: Night, finish: Finish) -> CellResult:
    """What the cell recorded of itself; else what the executor knows of its end."""
    path = cell_path(night.name, finish.task.identifier)
    text = night.files.read(path)
    if text is not None:
        recorded = CellResult.from_json(json.loads(text))
        if recorded.exit_code != 0 or finish.exit_code == 0:
            return replace(recorded, attempts=finish.attempts)
    words = finish.words or f"its process ended with exit code {finish.exit_code} and left no word"
    result = CellResult(
        identifier=finish.task.identifier,
        status="timeout" if finish.stage else "failed",
        words=words.splitlines()[0],
        exit_code=finish.exit_code or BuildStepError.exit_code,
        stage=finish.stage,
        node=finish.node,
        attempts=finish.attempts,
        started_unix_s=round(time.time(), 3),
    )
    night.files.write_record(path, result)
    return result


def _copy(night: Night, record: NightRecord, target: Depot) -> None:
    """All that is known of the night, also what the depot took while it was there."""
    files = {night_path(night.name): record.to_json()}
    files |= {cell_path(night.name, row.identifier): row.to_json() for row in night.results.values()}
    for path, tree in files.items():
        target.write_text(path, json.dumps(tree))
