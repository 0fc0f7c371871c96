"""`trtllm-kit deploy`: serve an artifact; status, logs and stop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from builder import manifest
from builder.attest import signing
from serving.deploy import manage
from serving.deploy.machine import this_machine
from serving.deploy.options import DEFAULT_TIMEOUT_S, DeployOptions, Outcome
from serving.deploy.targets import TARGETS
from trtllm_kit.cli import deploy_hold, options
from trtllm_kit.cli.default_group import DefaultGroup
from trtllm_kit.cli.session import open_store
from trtllm_kit.console import StderrTalk
from trtllm_kit.errors import IncompatibleError, UsageError


@click.group(cls=DefaultGroup, default="start")
def deploy() -> None:
    """Serve an artifact with Triton; then status, logs and stop.

    \b
    trtllm-kit deploy [ARTIFACT] [--to local|docker|compose]   (`deploy start --help` for all options)
    trtllm-kit deploy status
    """


@deploy.command()
@click.argument("artifact", required=False)
@click.option("--to", "target", type=click.Choice(list(TARGETS)), default="local", show_default=True, help="Where.")
@click.option("--name", help="Name of the deployment.  [default: the artifact's identifier]")
@click.option("--http-port", type=click.IntRange(1, 65535), help="[default: a free port; 8000 in containers]")
@click.option("--grpc-port", type=click.IntRange(1, 65535), help="[default: a free port; 8001 in containers]")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="[default: a free port; 8002 in containers]")
@click.option(
    "--timeout", "timeout_s", default=DEFAULT_TIMEOUT_S, show_default=True, help="Seconds to the first token."
)
@click.option("--image", help="Container image.  [default: the one that the artifact was built for]")
@click.option("--gpu", "gpus", multiple=True, help="GPU index or UUID for a container; repeat for more.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the container's files.")
@click.option("--require-validated", is_flag=True, help="Only what `validate` has passed on this SKU; else exit 5.")
@click.option("--require-signed", is_flag=True, help="Only what the holder of --key signed; else exit 15.")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Public key (PEM) that --require-signed checks with; implies it.  [default: $TRTLLM_KIT_KEY]",
)
@options.store
@options.output
@options.quiet
def start(
    artifact: str | None,
    target: str,
    name: str | None,
    http_port: int | None,
    grpc_port: int | None,
    metrics_port: int | None,
    timeout_s: float,
    image: str | None,
    gpus: tuple[str, ...],
    out: Path | None,
    require_validated: bool,
    require_signed: bool,
    key: Path | None,
    store_root: Path | None,
    output: str,
    quiet: bool,
) -> None:
    """Verify ARTIFACT (default: the newest), start Triton with it, and return once it has generated a token."""
    store = open_store(store_root)
    folder = store.find_artifact(artifact)
    content = _check_signed(folder, key) if require_signed or key else manifest.verify(folder)
    if require_validated:
        _check_validated(content)
    asked = DeployOptions(
        store=store.root,
        name=name,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        timeout_s=timeout_s,
        target=this_machine(content) if target == "local" else None,
        image=image,
        gpus=gpus,
        out=out,
    )
    talk = StderrTalk(quiet=quiet or output == "json")
    outcome = TARGETS[target](folder, content, asked, talk)
    if outcome.started:
        deploy_hold.hold(store, outcome.name, content, talk)
    if output == "json":
        options.show_json(_as_json(outcome))
    else:
        _show(outcome)


@deploy.command()
@options.store
@options.output
def status(store_root: Path | None, output: str) -> None:
    """Every deployment, each asked for a token: running means that one came."""
    rows = manage.status(open_store(store_root).root)
    if output == "json":
        options.show_json([{"name": row.deployment.name, **row.to_json()} for row in rows])
        return
    if not rows:
        click.echo("no deployment; start one with `trtllm-kit deploy`", err=True)
    for row in rows:
        click.echo(f"{row.deployment.name}  {row.state}  {row.deployment.http_url}  {row.detail}".rstrip())


@deploy.command()
@click.argument("name")
@click.option("--follow", is_flag=True, help="Go on with new lines until the server is gone.")
@options.store
def logs(name: str, follow: bool, store_root: Path | None) -> None:
    """The log of deployment NAME."""
    for line in manage.logs(open_store(store_root).root, name, follow=follow):
        click.echo(line)


@deploy.command()
@click.argument("name")
@options.store
def stop(name: str, store_root: Path | None) -> None:
    """End deployment NAME; its artifact stays."""
    store = open_store(store_root)
    held = deploy_hold.read(store, name)
    clean = manage.stop(store.root, name)
    deploy_hold.release(held, StderrTalk())
    click.echo(f"{name} stopped" + ("" if clean else " (it had to be killed)"), err=True)


def _check_signed(folder: Path, key: Path | None) -> dict[str, Any]:
    path = key or os.environ.get("TRTLLM_KIT_KEY")
    if not path:
        raise UsageError("signed by whom?", expected="--key PUBLIC.pem, or its path in TRTLLM_KIT_KEY")
    return signing.verify(folder, Path(path))


def _check_validated(content: Mapping[str, Any]) -> None:
    sku = str(content["target"]["sku"])
    if manifest.passing_validation(content, sku) is None:
        seen = [entry for entry in content.get("validations", ()) if entry.get("sku") == sku]
        raise IncompatibleError(
            f"{content['identifier']} has "
            + ("failed its last validation" if seen else "no validation")
            + f" on {sku}",
            expected="an artifact whose last complete `trtllm-kit validate` on this SKU passed",
            fix="deploy it without --require-validated on a machine of its own, and run `trtllm-kit validate` there",
        )


def _show(outcome: Outcome) -> None:
    if outcome.note:
        click.echo(outcome.note, err=True)
    for path in () if outcome.started else outcome.files:
        click.echo(f"wrote {path}", err=True)
    if outcome.deployment is not None and outcome.started:
        click.echo(f"{outcome.name} {outcome.deployment.http_url} grpc://{outcome.deployment.grpc_address}")
    elif outcome.command:
        click.echo(outcome.command)


def _as_json(outcome: Outcome) -> dict[str, object]:
    deployment = outcome.deployment
    return {
        "name": outcome.name,
        "started": outcome.started,
        "http_url": deployment.http_url if deployment else None,
        "grpc_address": deployment.grpc_address if deployment else None,
        "files": [str(path) for path in outcome.files],
        "command": outcome.command,
        "note": outcome.note,
    }
