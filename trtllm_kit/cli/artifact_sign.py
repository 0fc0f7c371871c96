"""`trtllm-kit artifact sign`: bill of materials, provenance, signature."""

from __future__ import annotations

from pathlib import Path

import click

from builder import manifest
from builder.attest import keys, signing
from builder.attest.model_card import licence_of
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store
from trtllm_kit.errors import UsageError

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("artifact", required=False)
@click.option("--key", type=_FILE, help="Private key (PEM); its passphrase is read from TRTLLM_KIT_KEY_PASSPHRASE.")
@click.option("--new-key", type=_FILE, help="Make a key pair first: FILE and FILE.pub.")
@click.option("--model-card", type=_FILE, help="README.md of the model: its licence goes into the bill of materials.")
@click.option(
    "--builder-id", metavar="URI", help="Who ran the build, for the provenance.  [default: the kit's version]"
)
@options.store
@options.output
def sign(
    artifact: str | None,
    key: Path | None,
    new_key: Path | None,
    model_card: Path | None,
    builder_id: str | None,
    store_root: Path | None,
    output: str,
) -> None:
    """Write sbom.cdx.json, provenance.json and model.sig beside the manifest of ARTIFACT (default: the newest)."""
    if (key is None) == (new_key is None):
        raise UsageError("which key is to sign?", expected="--key PRIVATE.pem, or --new-key FILE to make one")
    folder = open_store(store_root).find_artifact(artifact)
    licence = licence_of(model_card) if model_card else None
    public = keys.new_pair(new_key) if new_key else None
    signing.sign(folder, key or new_key or Path(), licence=licence, builder_id=builder_id)
    written = [str(folder / name) for name in manifest.ATTESTATIONS]
    if output == "json":
        options.show_json({"artifact": folder.name, "files": written, "public_key": str(public) if public else None})
        return
    if public:
        click.echo(f"new key pair: keep {new_key} secret, give {public} to all who deploy", err=True)
    for path in written:
        click.echo(path)
