"""`trtllm-kit migrate`: from an engine to the runtime that outlives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from builder import manifest
from builder.migrate import Migration, plan_migration
from builder.quantize.schemes import SCHEMES
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store
from trtllm_kit.errors import UsageError
from trtllm_kit.files import write_text_atomic


@click.command()
@click.argument("artifact", required=False)
@click.option("--to", type=click.Choice(["pytorch"]), default="pytorch", show_default=True, help="The new runtime.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the new spec here, not to stdout.")
@options.store
@options.output
def migrate(artifact: str | None, to: str, out: Path | None, store_root: Path | None, output: str) -> None:
    """Say what ARTIFACT loses on another runtime and what replaces it, then give the new spec."""
    if out is not None and out.exists():
        raise UsageError(f"{out} is there already", expected="a new file", fix="choose another name with --out")
    store = open_store(store_root)
    content = manifest.load(store.find_artifact(artifact))
    migration = plan_migration(content["spec"], content, to, available=tuple(SCHEMES))
    source = (store.get_ref(content["identifier"]) or {}).get("source", content["spec"]["model"])
    spec = {**migration.new_spec, "model": source}
    if output == "json":
        options.show_json(_as_json(migration, spec))
    else:
        _say(migration)
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    if out is not None:
        write_text_atomic(out, text)
        click.echo(f"wrote {out}; next: trtllm-kit plan --spec {out}", err=True)
    elif output == "text":
        click.echo(text, nl=False)


def _say(migration: Migration) -> None:
    for lost in migration.lost:
        click.echo(f"lost:      {lost}", err=True)
    for gone, comes in migration.replaced:
        click.echo(f"replaced:  {gone}\n      by:  {comes}", err=True)


def _as_json(migration: Migration, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "from": migration.source_runtime,
        "to": migration.target_runtime,
        "lost": migration.lost,
        "replaced": [{"lost": gone, "replacement": comes} for gone, comes in migration.replaced],
        "spec": spec,
    }
