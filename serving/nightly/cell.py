"""A task from an executor's hand: run under supervision, its result and its log kept where the night finds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builder.store import Store, default_root
from serving.nightly.executors.protocol import CellTask
from serving.nightly.night_files import NightFiles, cell_path, log_path
from serving.nightly.record import CellResult
from serving.nightly.steps import Steps
from serving.nightly.supervise import supervise


def run_task(task: CellTask, *, attempt: int, echo: bool) -> CellResult:
    """The result as recorded below `nights/<night>/`, in the depot or else in the local store."""
    result, log = supervise(task, _work, echo=echo)
    store = Store(Path(task.store) if task.store else default_root())
    files = NightFiles(task.depot, store)
    result = replace(result, attempts=attempt, log=log_path(task.night, task.identifier))
    files.write(log_path(task.night, task.identifier), log.decode(errors="replace"))
    files.write_record(cell_path(task.night, task.identifier), result)
    return result


def _work(task: CellTask, steps: Steps) -> CellResult:
    from serving.nightly.work import run_cell  # here, in the child: the supervisor stays small

    return run_cell(task, steps)
