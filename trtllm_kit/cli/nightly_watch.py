"""`trtllm-kit nightly watch`: what upstream changed since the last night, without building anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.nightly_nights import NightsRequest, nights_options
from trtllm_kit.cli.session import open_store
from trtllm_kit.console import StderrTalk

if TYPE_CHECKING:
    from serving.nightly.watch import Watched


@click.command()
@nights_options
def watch(nightly_path: Path | None, depot_url: str | None, store_root: Path | None, output: str) -> int:
    """Print what is not as the last nights found it: models, images, pinned versions.

    Exit code: 10 when something changed, 4 when nothing did but upstream could not be asked, else 0.
    """
    from builder.digests import DigestCache
    from serving.nightly.checkpoints import Checkpoints
    from serving.nightly.report.nights import LAST_NIGHTS, night_names, read_records
    from serving.nightly.spec import NIGHTLY_NAME, load
    from serving.nightly.watch import watch as ask

    request = NightsRequest(nightly_path=nightly_path, depot_url=depot_url, store_root=store_root)
    talk = StderrTalk(quiet=output == "json")
    checkpoints = Checkpoints(digests=DigestCache(open_store(store_root).digests_file), talk=talk)
    depot = request.depot()
    records = read_records(depot, night_names(depot)[-LAST_NIGHTS:])
    found = ask(request.nightly or load(Path(NIGHTLY_NAME)), records, checkpoints)
    if output == "json":
        options.show_json(found.to_json())
    else:
        _show(found, talk)
    return found.exit_code


def _show(found: Watched, talk: StderrTalk) -> None:
    from serving.nightly.report.differences import short

    for reason in found.unanswered.values():
        talk.warn(reason)
    for name in found.new:
        click.echo(f"{name} is {short(found.now[name])}; no night has written it down")
    for one in found.changes:
        click.echo(str(one))
    if found.since is None:
        click.echo("there was no night yet")
    elif not found.changes and not found.new:
        click.echo(f"nothing {'that answered ' if found.unanswered else ''}changed since night {found.since}")
