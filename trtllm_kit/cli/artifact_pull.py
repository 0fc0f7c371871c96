"""`trtllm-kit artifact pull`: an artifact from where another machine put it."""

from __future__ import annotations

from pathlib import Path

import click

from builder import manifest
from builder.depot import Depot
from builder.oci.reference import SCHEME, Reference
from builder.store import Store
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store
from trtllm_kit.console import StderrTalk, Talk
from trtllm_kit.errors import UsageError


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("cell", required=False)
@options.insecure
@options.store
@options.output
@options.quiet
def pull(source: str, cell: str | None, insecure: bool, store_root: Path | None, output: str, quiet: bool) -> None:
    """Bring an artifact into the store, verified, and let its identifier mean it: `deploy` takes it next.

    \b
    trtllm-kit artifact pull oci://registry.example/team/llama:v1
    trtllm-kit artifact pull s3://bucket/depot CELL[/candidate|/current|/previous]
    """
    store, talk = open_store(store_root), StderrTalk(quiet=quiet or output == "json")
    if source.startswith(SCHEME) == (cell is not None):
        raise UsageError(
            f"which artifact of {source}?" if cell is None else f"'{cell}' beside a place in a registry",
            expected="a depot and a cell, or oci://host/repository:tag alone",
            fix="`trtllm-kit artifact refs` lists the cells of a depot",
        )
    origin: dict[str, str] = {}
    if cell is None:
        folder = _from_registry(source, store, talk, insecure)
    else:
        depot = Depot.open(source)
        entry = depot.find_entry(cell)
        folder, origin = depot.pull(entry.digest, entry.upload, store, talk=talk), {"depot": depot.url}
    content = manifest.load(folder)
    record = store.get_ref(content["identifier"]) or {}
    if record.get("artifact") != content["digest"]:
        pulled = {"artifact": content["digest"], "source": content["spec"]["model"], **origin}
        store.set_ref(content["identifier"], pulled)
    if output == "json":
        options.show_json({"artifact": content["digest"], "identifier": content["identifier"], "folder": str(folder)})
    else:
        click.echo(f"{content['identifier']} {content['digest']}")


def _from_registry(source: str, store: Store, talk: Talk, insecure: bool) -> Path:
    from builder.oci.pull import pull as pull_image

    return pull_image(Reference.parse(source), store, insecure=insecure, talk=talk)
