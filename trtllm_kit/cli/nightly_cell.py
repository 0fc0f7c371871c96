"""`trtllm-kit nightly cell`: one cell of a night, as executors and job arrays run it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import click

from trtllm_kit.errors import SpecError, UsageError


@click.command()
@click.argument("task", required=False)
@click.option(
    "--tasks", type=click.Path(path_type=Path, dir_okay=False), help="JSONL of tasks, one of them by --index."
)
@click.option("--index", type=click.IntRange(min=0), help="Which line of --tasks, from 0.")
@click.option("--index-env", metavar="NAME", help="... or the variable that holds it, e.g. JOB_COMPLETION_INDEX.")
@click.option("--night", metavar="NAME", help="The night that it belongs to.  [default: the task's, else a new one]")
@click.option("--attempt", type=click.IntRange(min=1), default=1, show_default=True, help="Which attempt this is.")
@click.option("--tied", type=int, metavar="PID", hidden=True, help="End when PID, which started this process, ends.")
def cell(
    task: str | None,
    tasks: Path | None,
    index: int | None,
    index_env: str | None,
    night: str | None,
    attempt: int,
    tied: int | None,
) -> int:
    """Build, compare, and promote or keep the cell of TASK: a JSON file, or - for stdin.

    \b
    trtllm-kit nightly plan --tasks tasks.jsonl
    trtllm-kit nightly cell --tasks tasks.jsonl --index 0
    """
    from serving.nightly.cell import run_task
    from serving.nightly.executors.protocol import CellTask
    from serving.nightly.process_tree import die_with_parent
    from serving.nightly.record import new_night

    if tied is not None:
        die_with_parent(tied)
    tree = json.loads(_text(task, tasks, _index(index, index_env)))
    try:
        found = CellTask.from_json(tree)
    except TypeError as error:
        raise SpecError(f"this is no task: {error}", expected="what `nightly plan --tasks` wrote") from None
    found = replace(found, night=night or found.night or new_night())
    result = run_task(found, attempt=attempt, echo=True)
    click.echo(f"{result.identifier}: {result.status}: {result.words}")
    return result.exit_code


def _index(index: int | None, variable: str | None) -> int | None:
    if variable is None:
        return index
    value = os.environ.get(variable, "")
    if not value.isdigit():
        raise UsageError(f"${variable} is '{value}'", expected="the index of this task, from 0")
    return int(value)


def _text(task: str | None, tasks: Path | None, index: int | None) -> str:
    """The JSON of one task, checked to be JSON."""
    if (task is None) == (tasks is None) or (tasks is not None and index is None):
        raise UsageError("which task?", expected="TASK, or --tasks with --index or --index-env")
    source = Path(task or "") if tasks is None else tasks
    try:
        text = sys.stdin.read() if task == "-" else source.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.strip()]
        chosen = text if index is None else lines[index]
        json.loads(chosen)
    except IndexError:
        raise UsageError(f"{source} has {len(lines)} tasks and none at {index}", expected="an index from 0") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{source} holds no task: {error}", expected="what `nightly plan --tasks` wrote") from None
    return chosen
