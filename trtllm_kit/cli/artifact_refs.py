"""`trtllm-kit artifact refs`: what is candidate, current and previous of each cell in a depot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_depot

if TYPE_CHECKING:
    from builder.depot import Version
    from builder.depot.records import CellName

_SHORT = 12


@click.command()
@options.depot
@options.store
@click.option("--history", metavar="CELL", help="Every move of one cell's refs, by its name or identifier.")
@options.output
def refs(depot_url: str | None, store_root: Path | None, history: str | None, output: str) -> None:
    """Which build of each cell is in service (current), may follow it (candidate), or came before it (previous)."""
    depot = open_depot(depot_url, store_root)
    if history is not None:
        cell = depot.find(history)
        rows = [(cell, version) for version in depot.history(cell)]
    else:
        rows = sorted(depot.read_all().items())
    if output == "json":
        options.show_json([_tree(cell, version) for cell, version in rows])
    elif history is not None:
        _print([("move", *_HEADS), *((str(version.number), *_columns(version)) for _, version in rows)])
    elif rows:
        _print([("cell", *_HEADS), *((str(cell), *_columns(version)) for cell, version in rows)])
    else:
        click.echo(f"no cell in depot {depot.url}; `trtllm-kit nightly run` fills it", err=True)


_HEADS = ("candidate", "current", "previous", "moved (UTC)", "why")


def _columns(version: Version) -> tuple[str, ...]:
    record = version.record
    digests = (entry.digest[:_SHORT] if entry else "-" for entry in (record.candidate, record.current, record.previous))
    return (*digests, time.strftime("%Y-%m-%d %H:%M", time.gmtime(record.at_unix_s)), record.words)


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _tree(cell: CellName, version: Version) -> dict[str, Any]:
    about = {"cell": str(cell), "identifier": str(cell.identifier), "number": version.number}
    return {**about, **version.record.to_json()}
