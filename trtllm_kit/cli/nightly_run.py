"""`trtllm-kit nightly run`: the plan carried out, recorded and reported."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.nightly_options import PlanningRequest, planning_options
from trtllm_kit.errors import KitError

if TYPE_CHECKING:
    from serving.nightly.run import Night
    from serving.nightly.session import Session


@click.command()
@planning_options
@click.option("--force", is_flag=True, help="Build and compare also what is unchanged.")
@click.option("--jobs", type=click.IntRange(min=1), help="Cells at once.  [default: executor.jobs of the matrix]")
def run(force: bool, jobs: int | None, **request: Any) -> int:
    """Build what changed, compare it with what is in service, promote it or keep the incumbent.

    Exit code: 0 all fine, 7 a candidate was rejected, 9 cells failed. Where nothing changed, no file is touched.
    """
    from serving.nightly.run import run_night

    asked = PlanningRequest(**request)
    session = asked.session()
    plan = session.plan_or_failures(only=asked.only, force=force)
    if not plan.work and not plan.broken:
        return _nothing_to_do(session, asked, len(plan.cells))
    night = session.night(plan, jobs=jobs)
    asked.talk.say(f"night {night.name}: {len(plan.work)} of {len(plan.cells)} cells to work on")
    # A scheduler's way to stop: the cells are ended and what is finished is reported, as after an interrupt.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        run_night(night, session.tasks(plan, night.name, force=force))
    finally:
        pages = _report(session, night)
    if night.files.problem is None:
        _collect(session)
    _show(asked, night, pages)
    return night.exit_code


def _collect(session: Session) -> None:
    """Make room in the depot; that it did not work out is for the next night to mend."""
    try:
        removed = session.depot.collect(session.nightly.spec.keep_days, dry_run=False)
    except KitError as error:
        session.talk.warn(f"the depot was not cleared: {error.happened}")
    else:
        session.talk.say(f"removed from the depot: {', '.join(removed) or 'nothing'}")


def _nothing_to_do(session: Session, asked: PlanningRequest, cells: int) -> int:
    from serving.nightly.report import write_metrics

    prometheus = session.nightly.beside(session.nightly.spec.report.prometheus)
    if prometheus is not None:
        write_metrics(session.depot, prometheus)
    if asked.output == "json":
        options.show_json({"night": None, "exit_code": 0, "cells": cells, "results": [], "report": []})
    else:
        click.echo(f"nothing to do: {cells} cells, none changed")
    return 0


def _report(session: Session, night: Night) -> list[Path]:
    """The report's files; that it could not be written is a warning, and hides no result."""
    from serving.nightly.report import write_night

    settings, beside = session.nightly.spec.report, session.nightly.beside
    try:
        return write_night(
            night.files.unsent if night.files.problem else session.depot,
            night.name,
            folder=beside(settings.folder),
            prometheus=beside(settings.prometheus),
            webhook=settings.webhook,
            talk=night.talk,
        )
    except (KitError, OSError) as error:
        night.talk.warn(f"the report could not be written: {error}")
        return []


def _show(asked: PlanningRequest, night: Night, pages: list[Path]) -> None:
    if asked.output == "json":
        results = [row.to_json() for row in night.results.values()]
        options.show_json(
            {
                "night": night.name,
                "exit_code": night.exit_code,
                "cells": len(night.plan.cells),
                "results": results,
                "report": [str(page) for page in pages],
            }
        )
        return
    from serving.nightly.report.states import state_of, urgency

    rows = sorted(night.results.values(), key=lambda row: (urgency(state_of(row)), row.identifier))
    for row in rows:
        state = state_of(row)
        click.echo(f"{state.symbol} {state.name:<12} {row.identifier:<52} {row.seconds:>8.1f} s  {row.words}")
    if pages:
        click.echo(f"report: {pages[0]}", err=True)
