"""`trtllm-kit nightly rollback`: the build before, in service again."""

from __future__ import annotations

import time
from pathlib import Path

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_depot

_BY_HAND = "by hand"


@click.command()
@click.argument("cell")
@options.depot
@options.store
@options.output
def rollback(cell: str, depot_url: str | None, store_root: Path | None, output: str) -> None:
    """Make a cell's previous build its current one, and the current one its previous.

    CELL is `<model>/<precision>/<sku>`, with `/tp<T>pp<P>-<runtime>` where there are several, or an identifier. What is
    deployed already stays as it is: deploy the cell again.
    """
    depot = open_depot(depot_url, store_root)
    name = depot.find(cell)
    seen = depot.read(name)
    moved = depot.move(name, seen, seen.record.rolled_back(night=_BY_HAND, at_unix_s=time.time())).record
    assert moved.current is not None  # it was `previous`, without which `rolled_back` raises
    given_up = moved.previous.digest if moved.previous else None
    if output == "json":
        options.show_json({"cell": str(name), "current": moved.current.digest, "previous": given_up})
    else:
        before = f", which replaces {given_up[:12]}" if given_up else ""
        click.echo(f"{name}: current is {moved.current.digest[:12]} of night {moved.current.night}{before}")
