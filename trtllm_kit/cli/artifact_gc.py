"""`trtllm-kit artifact gc`: what is needed no more."""

from __future__ import annotations

from pathlib import Path

import click

from builder.collect import collect
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_depot, open_store


@click.command()
@options.store
@click.option("--depot", "depot_url", metavar="URL", help="Collect in this depot, and not in the store.")
@click.option(
    "--keep-days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    help="Keep what is younger: uploads of a depot, results of validate in the store.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@options.output
def gc(store_root: Path | None, depot_url: str | None, keep_days: float, dry_run: bool, output: str) -> None:
    """Remove artifacts that no ref and no deployment needs, and stage outputs that no artifact was made of."""
    if depot_url is not None:
        removed = open_depot(depot_url, store_root).collect(keep_days, dry_run)
    else:
        removed = [str(path) for path in collect(open_store(store_root), keep_days=keep_days, dry_run=dry_run)]
    if output == "json":
        options.show_json({"removed": removed, "dry_run": dry_run})
        return
    for path in removed:
        click.echo(path)
    click.echo(f"{len(removed)} {'would be removed' if dry_run else 'removed'}", err=True)
