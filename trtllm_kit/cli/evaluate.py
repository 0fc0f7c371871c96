"""`trtllm-kit evaluate`: what a quantized checkpoint lost, and whether that is too much."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from builder.digests import DigestCache
from builder.evaluate.limits import LIMITED, parse_limits
from builder.evaluate.settings import EvaluationSettings
from builder.fetch import fetch
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store
from trtllm_kit.console import StderrTalk

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("checkpoint", type=_FOLDER)
@click.option("--against", required=True, metavar="BASE", help="The unquantized checkpoint: a folder, or org/name.")
@click.option("--data", multiple=True, type=_FILE, help="JSONL of your own texts or chats: a slice more. Repeatable.")
@click.option("--only-data", is_flag=True, help="Leave the kit's own held-out text out.")
@click.option(
    "--calibration", multiple=True, type=_FILE, help="JSONL that it was calibrated on: dropped from the text."
)
@click.option("--limits", multiple=True, metavar="METRIC=VALUE", help=f"Of {', '.join(LIMITED)}.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=EvaluationSettings.max_tokens, show_default=True)
@click.option("--kl-checks", type=click.IntRange(min=0), default=0, help="Of the costliest linears, each alone.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="An HTML page with pictures.")
@options.store
@options.output
@options.quiet
def evaluate(
    checkpoint: Path,
    against: str,
    data: tuple[Path, ...],
    only_data: bool,
    calibration: tuple[Path, ...],
    limits: tuple[str, ...],
    max_tokens: int,
    kl_checks: int,
    report: Path | None,
    store_root: Path | None,
    output: str,
    quiet: bool,
) -> None:
    """Perplexity, KL divergence and agreement of the quantized CHECKPOINT against BASE, on held-out text.

    Exit 6 when a limit is not kept, and when there is too little text to tell.
    """
    from builder.evaluate import evaluate as compare
    from builder.evaluate import write_report

    settings = EvaluationSettings(
        limits=parse_limits(limits),
        data=data,
        bundled=not only_data,
        calibration=calibration,
        max_tokens=max_tokens,
        kl_checks=kl_checks,
    )
    talk = StderrTalk(quiet=quiet or output == "json")
    digests = DigestCache(open_store(store_root).digests_file)
    base = fetch(against, trust_remote_code=False, digests=digests, talk=talk)
    digests.save()
    with tempfile.TemporaryDirectory(prefix="trtllm-kit-evaluate-") as work:
        result = compare(base, checkpoint, settings=settings, talk=talk, work=Path(work) / "states")
    if report is not None:
        write_report(result, report)
        click.echo(f"report: {report}", err=True)
    if output == "json":
        options.show_json(result.to_json())
    else:
        click.echo("\n".join(result.summary()))
    result.raise_unless_passed()
