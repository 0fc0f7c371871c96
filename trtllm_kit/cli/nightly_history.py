"""`trtllm-kit nightly history`: since when a cell is slower, and what changed that night."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.nightly_nights import NightsRequest, nights_options
from trtllm_kit.errors import SpecError
from trtllm_kit.identifier import BuildIdentifier

if TYPE_CHECKING:
    from builder.depot import Depot
    from serving.nightly.report.history import History, Row

_METRICS_SHOWN = 3


@click.command()
@click.argument("cell")
@click.option("--metric", help="Only this, e.g. output_tokens_per_s or ttft_ms.  [default: all that were measured]")
@nights_options
def history(
    cell: str,
    metric: str | None,
    nightly_path: Path | None,
    depot_url: str | None,
    store_root: Path | None,
    output: str,
) -> None:
    """Tell since when CELL is slower beyond noise, and what changed that night; then every night of it.

    CELL is an identifier, `<model>/<precision>/<sku>/tp<T>pp<P>-<runtime>`, or a unique beginning of either.
    """
    from serving.nightly.report.history import history as history_of
    from serving.nightly.report.nights import night_names, read_nights

    depot = NightsRequest(nightly_path=nightly_path, depot_url=depot_url, store_root=store_root).depot()
    identifier = _identifier(depot, cell)
    found = history_of(read_nights(depot, night_names(depot), only=identifier), identifier, metric)
    if output == "json":
        options.show_json(found.to_json())
        return
    for line in found.answer:
        click.echo(line)
    _show(found)


def _identifier(depot: Depot, cell: str) -> str:
    """Of a cell that was never built there are no refs to find it by; its full name does."""
    try:
        return str(BuildIdentifier.parse(cell))
    except SpecError:
        return str(depot.find(cell).identifier)


def _show(found: History) -> None:
    from rich.console import Console
    from rich.table import Table

    metrics = found.metrics[:_METRICS_SHOWN]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("night", "", "built", "in service"):
        table.add_column(head, no_wrap=True)
    for metric in metrics:
        table.add_column(f"{metric.title} {metric.unit}", justify="right")
    table.add_column("what changed, and what came of it")
    for row in found.rows:
        figures = [_figure(row.figures.get(metric.key)) for metric in metrics]
        digests = [digest[:12] if digest else "-" for digest in (row.candidate, row.current)]
        table.add_row(_nights(row), row.state, *digests, *figures, "; ".join(_lines(row)))
    Console(highlight=False, width=None if sys.stdout.isatty() else 170).print(table)
    if metrics:
        click.echo("figures: of the new build, and in brackets of the one in service that night")


def _nights(row: Row) -> str:
    return row.nights[0] if len(row.nights) == 1 else f"{len(row.nights)} nights"


def _lines(row: Row) -> Iterable[str]:
    return (*row.changes, row.words)


def _figure(values: tuple[float, float | None] | None) -> str:
    """The new build's beside that in service."""
    if values is None:
        return "-"
    candidate, incumbent = values
    return f"{candidate:,.4g}" if incumbent is None else f"{candidate:,.4g} ({incumbent:,.4g})"
