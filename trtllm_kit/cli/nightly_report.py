"""`trtllm-kit nightly report`: a night as a page, as JSON and in lines, with the scheduler's exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.nightly_nights import NightsRequest, nights_options
from trtllm_kit.console import StderrTalk

if TYPE_CHECKING:
    from serving.nightly.report.summary import Summary

_FOLDER = "nightly-report"


@click.command()
@click.argument("night", default="latest")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Folder of the pages.  [default: report.folder of the matrix, else {_FOLDER}]",
)
@click.option("--publish", is_flag=True, help="Also write the metrics and send the webhook that the matrix names.")
@nights_options
def report(
    night: str,
    out: Path | None,
    publish: bool,
    nightly_path: Path | None,
    depot_url: str | None,
    store_root: Path | None,
    output: str,
) -> int:
    """Write NIGHT (default: the latest; a name or its beginning) as one HTML page with its JSON and logs.

    Exit code for the scheduler: 0 all fine, 7 a candidate was rejected, 9 cells failed.
    """
    from serving.nightly.report import summarize, write_summary

    request = NightsRequest(nightly_path=nightly_path, depot_url=depot_url, store_root=store_root)
    nightly, depot = request.nightly, request.depot()
    summary = summarize(depot, night)
    written = write_summary(
        depot,
        summary,
        folder=out or (nightly and nightly.beside(nightly.spec.report.folder)) or Path(_FOLDER),
        prometheus=nightly.beside(nightly.spec.report.prometheus) if nightly and publish else None,
        webhook=nightly.spec.report.webhook if nightly and publish else None,
        talk=StderrTalk(quiet=output == "json"),
    )
    for path in written:
        click.echo(f"written: {path}", err=True)
    if output == "json":
        options.show_json(summary.to_json())
    else:
        _show(summary)
    return summary.exit_code


def _show(summary: Summary) -> None:
    from serving.nightly.report.summary import words_of

    click.echo(f"{summary.night.name}: {summary.verdict[0]}; {summary.sentence}")
    for one in summary.upstream:
        click.echo(f"  upstream: {one}")
    for identifier, state, result in summary.by_urgency:
        if state.name != "unchanged":
            click.echo(f"  {state.symbol} {identifier}: {words_of(state, result)}")
