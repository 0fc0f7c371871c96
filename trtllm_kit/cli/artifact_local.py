"""What has been built on this machine, whether it is intact, and what can go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from builder import manifest
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store


@click.command("list")
@options.store
@options.output
def list_(store_root: Path | None, output: str) -> None:
    """The artifacts in the store, with the identifier that points at each."""
    store = open_store(store_root)
    names = {str(record["artifact"]): name for name, record in store.refs().items()}
    rows = [_row(store.artifact_folder(digest), names.get(digest)) for digest in store.artifacts()]
    if output == "json":
        options.show_json(rows)
        return
    if not rows:
        click.echo(f"no artifact in {store.root}; build one with `trtllm-kit build model`", err=True)
    for row in rows:
        mark = "" if row["current"] else "  (superseded)"
        click.echo(f"{row['digest'][:12]}  {row['size_mb']:>10,.1f} MB  {row['identifier']}{mark}")


@click.command()
@click.argument("name", required=False)
@options.store
def show(name: str | None, store_root: Path | None) -> None:
    """An artifact's manifest (the newest artifact's, if none is named)."""
    click.echo(json.dumps(manifest.load(open_store(store_root).find_artifact(name)), indent=2, ensure_ascii=False))


def _row(folder: Path, name: str | None) -> dict[str, Any]:
    content = manifest.load(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "digest": content["digest"],
        "identifier": content["identifier"],
        "current": name is not None,
        "size_mb": round(size / 1e6, 1),
        "folder": str(folder),
    }
