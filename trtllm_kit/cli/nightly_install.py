"""`trtllm-kit nightly install`: the nightly as files for a scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from profiles.skus import find
from serving.nightly.install import TARGETS, InstallRequest, Rendered, Schedule, write
from serving.nightly.session import Session
from trtllm_kit.cli import options
from trtllm_kit.cli.nightly_options import matrix
from trtllm_kit.cli.session import open_store
from trtllm_kit.console import StderrTalk
from trtllm_kit.errors import UsageError


@click.command()
@click.option("--target", type=click.Choice(list(TARGETS)), required=True, help="For which scheduler.")
@matrix
@click.option(
    "--schedule", default="0 2 * * *", show_default=True, metavar="CRON", help="Five fields; on Kubernetes in UTC."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder.  [default: nightly-TARGET]")
@click.option("--print", "print_only", is_flag=True, help="Print the files and write none.")
@click.option("--force", is_flag=True, help="Replace files that were edited by hand.")
@click.option("--report-schedule", metavar="CRON", help="kubernetes: when the report is made.  [default: 0 8 * * *]")
@click.option("--at-once", type=click.IntRange(min=1), help="kubernetes, slurm: cells of one SKU.  [default: 2]")
@click.option("--image", help="kubernetes: with trtllm-kit, and TensorRT-LLM where engines are built.")
@click.option("--namespace", help="kubernetes: where it all lies.  [default: default]")
@click.option("--queue", help="kubernetes: Kueue's LocalQueue. slurm: the partition.")
@click.option("--claim", help="kubernetes: a ReadWriteMany volume claim for store, models and reports.")
@click.option("--secret", help="kubernetes: the Secret with HF_TOKEN, AWS_ACCESS_KEY_ID, ...")
@click.option("--gres", multiple=True, metavar="SKU=TYPE", help="slurm: your name of a SKU's GPU, e.g. h100_sxm=h100.")
@options.store
def install(
    target: str,
    matrix_path: Path,
    schedule: str,
    out: Path | None,
    print_only: bool,
    force: bool,
    store_root: Path | None,
    **given: Any,
) -> None:
    """Write the files that run the matrix every night; what to do with them is said on stderr.

    \b
    cron, systemd   `nightly run` on this machine
    kubernetes      an Indexed CronJob for each SKU, one index a cell; Kueue with --queue
    slurm           a job array for each SKU, and a report after them
    """
    asked = {name.replace("_", "-"): value for name, value in given.items() if value not in (None, ())}
    _refuse_foreign(target, asked)
    request = InstallRequest(
        session=Session(path=matrix_path, store=open_store(store_root), talk=StderrTalk()),
        schedule=Schedule.parse(schedule),
        report_schedule=Schedule.parse(asked.get("report-schedule", "0 8 * * *")),
        out=(out or Path(f"nightly-{target}")).absolute(),
        at_once=asked.get("at-once", 2),
        image=asked.get("image"),
        namespace=asked.get("namespace", "default"),
        queue=asked.get("queue"),
        claim=asked.get("claim"),
        secret=asked.get("secret"),
        gres=_gres(asked.get("gres", ())),
    )
    rendered = TARGETS[target].render(request)
    if print_only:
        click.echo("\n".join(f"# {name}\n{text}" for name, text in rendered.files.items()), nl=False)
        return
    for path in write(rendered, request.out, force=force):
        click.echo(path)
    _say_next(request, rendered)


def _refuse_foreign(target: str, asked: dict[str, Any]) -> None:
    for name in asked:
        if name not in TARGETS[target].options:
            owners = [other for other, row in TARGETS.items() if name in row.options]
            raise UsageError(f"--{name} means nothing to {target}", expected=f"--target {' or '.join(owners)}")


def _gres(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        sku, separator, name = pair.partition("=")
        if not separator or not name:
            raise UsageError(f"--gres {pair} has no type", expected="SKU=TYPE, e.g. h100_sxm=h100")
        found[find(sku).id] = name
    return found


def _say_next(request: InstallRequest, rendered: Rendered) -> None:
    click.echo("next:", err=True)
    for step in rendered.next_steps:
        click.echo(f"  {step}", err=True)
