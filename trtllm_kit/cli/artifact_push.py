"""`trtllm-kit artifact push`: an artifact to where other machines find it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from builder import manifest
from builder.oci.reference import SCHEME, Reference
from builder.stages import stage_key
from builder.store import Store
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store
from trtllm_kit.console import StderrTalk, Talk
from trtllm_kit.errors import UsageError
from trtllm_kit.identifier import BuildIdentifier


@click.command()
@click.argument("artifact", nargs=-1, metavar="[ARTIFACT]")
@click.argument("to")
@options.insecure
@options.store
@options.output
@options.quiet
def push(artifact: tuple[str, ...], to: str, insecure: bool, store_root: Path | None, output: str, quiet: bool) -> None:
    """Send ARTIFACT (default: the newest) to an OCI registry or to a depot.

    \b
    trtllm-kit artifact push oci://registry.example/team/llama:v1   an image that a pod can mount
    trtllm-kit artifact push s3://bucket/depot                      the candidate of its cell
    """
    if len(artifact) > 1:
        raise UsageError(f"{len(artifact)} artifacts are named", expected="at most one, and where it is to go")
    store = open_store(store_root)
    folder, talk = store.find_artifact(*artifact or (None,)), StderrTalk(quiet=quiet or output == "json")
    is_registry = to.startswith(SCHEME)
    found = _to_registry(folder, to, talk, insecure) if is_registry else _to_depot(folder, to, talk, store)
    if output == "json":
        options.show_json(found)
    else:
        click.echo(found["place"])


def _to_registry(folder: Path, to: str, talk: Talk, insecure: bool) -> dict[str, Any]:
    from builder.oci.push import push as push_image

    pushed = push_image(folder, Reference.parse(to), insecure=insecure, talk=talk)
    talk.say(f"{pushed.sent_bytes / 1e6:,.1f} of {pushed.total_bytes / 1e6:,.1f} MB sent")
    return {"place": str(pushed.place), "sent_bytes": pushed.sent_bytes, "total_bytes": pushed.total_bytes}


def _to_depot(folder: Path, to: str, talk: Talk, store: Store) -> dict[str, Any]:
    """Publish the artifact and make it the candidate of its cell."""
    from builder.depot.depot import Depot
    from builder.depot.records import CellName, Entry

    content = manifest.verify(folder)
    cell, depot = CellName.of(BuildIdentifier.parse(content["identifier"])), Depot.open(to)
    record = store.get_ref(content["identifier"]) or {}
    inputs = record.get("stages", {}) if record.get("artifact") == content["digest"] else {}
    key = stage_key("package", inputs["package"]) if "package" in inputs else ""
    before = depot.read(cell)
    with depot.publish(folder, talk=talk) as upload:
        entry = Entry(digest=content["digest"], upload=upload, key=key, inputs=inputs, night="push")
        depot.move(cell, before, before.record.built(entry, at_unix_s=time.time()))
    return {"place": f"{depot.url} {cell}/candidate", "artifact": content["digest"]}
