"""`trtllm-kit nightly plan`: every cell, what tonight would do with it, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.nightly_options import PlanningRequest, planning_options
from trtllm_kit.errors import CHANGES_PENDING


@click.command()
@planning_options
@click.option("--all", "every", is_flag=True, help="Also list unchanged cells one by one, however many they are.")
@click.option("--check", is_flag=True, help=f"Exit with {CHANGES_PENDING} when something would be built or measured.")
@click.option(
    "--tasks",
    "tasks_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a task for every possible cell as JSONL, for `nightly cell`.",
)
def plan(every: bool, check: bool, tasks_path: Path | None, **request: Any) -> int:
    """Show every cell: build, measure, skip or impossible, why, and what it will take.

    Minutes are those that past nights took for the same work; unknown where none did.
    """
    from trtllm_kit.cli import nightly_plan_report

    asked = PlanningRequest(**request)
    session = asked.session()
    found = session.plan(only=asked.only)
    if tasks_path is not None:
        _write_tasks(tasks_path, [session.task(row, "") for row in found.cells if row.cell.plan])
    if asked.output == "json":
        options.show_json(nightly_plan_report.as_json(found))
    else:
        nightly_plan_report.show(found, every=every)
    return CHANGES_PENDING if check and found.work else 0


def _write_tasks(path: Path, tasks: list[Any]) -> None:
    from trtllm_kit.files import write_text_atomic

    write_text_atomic(path, "".join(json.dumps(task.to_json()) + "\n" for task in tasks))
    click.echo(f"{len(tasks)} tasks: {path}", err=True)
