"""`trtllm-kit artifact verify`: whether every byte is what was built, and whether a key's holder vouches for it."""

from __future__ import annotations

from pathlib import Path

import click

from builder import manifest
from builder.attest import signing
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store


@click.command()
@click.argument("name", required=False)
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="Public key (PEM): check the signature too."
)
@options.store
@options.output
def verify(name: str | None, key: Path | None, store_root: Path | None, output: str) -> None:
    """Read every byte and compare it with the manifest; exit 15 when one differs, or when KEY did not sign it."""
    folder = open_store(store_root).find_artifact(name)
    content = signing.verify(folder, key) if key else manifest.verify(folder)
    if output == "json":
        found = {"artifact": content["digest"], "files": len(content["files"]), "intact": True}
        options.show_json({**found, "signed": signing.is_signed(folder), "signature_checked": key is not None})
        return
    signed = "its signature was not checked: give --key" if signing.is_signed(folder) else "not signed"
    words = f"signed by the holder of {key}" if key else signed
    click.echo(f"{content['identifier']} {content['digest'][:12]}: {len(content['files'])} files intact, {words}")
