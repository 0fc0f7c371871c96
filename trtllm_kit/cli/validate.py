"""`trtllm-kit validate`: prove a deployment, with a verdict on screen, in JSON and as a page."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from builder import manifest
from builder.digests import DigestCache
from builder.fetch import fetch
from builder.plan import ValidationPlan
from builder.resolve.serving import INPUT_LEN, OUTPUT_LEN, REQUESTS_PER_LEVEL
from builder.store import Store
from serving.validate.run import CHECKS, Subject
from trtllm_kit.cli import options
from trtllm_kit.cli.session import find_deployment, open_endpoint, open_store
from trtllm_kit.console import Silent, StderrTalk
from trtllm_kit.errors import KitError
from trtllm_kit.spec import ValidationSpec


@click.command()
@click.argument("deployment", required=False)
@click.option("--url", help="Address of any Triton instead, e.g. http://127.0.0.1:8000.")
@click.option("--artifact", help="With --url: the artifact that is served there.")
@click.option("--check", "checks", multiple=True, type=click.Choice(list(CHECKS)), help="Only this; repeat for more.")
@click.option("--concurrency", "concurrencies", multiple=True, type=click.IntRange(min=1), help="Repeat for more.")
@click.option("--requests-per-level", type=click.IntRange(min=1), help="Counted requests at each concurrency.")
@click.option("--input-len", type=click.IntRange(min=1), help="Tokens of each prompt.")
@click.option("--output-len", type=click.IntRange(min=1), help="Tokens of each answer.")
@click.option("--ttft-p95-ms", type=click.FloatRange(min=0, min_open=True), help="Limit; exit 7 when missed.")
@click.option("--tpot-p95-ms", type=click.FloatRange(min=0, min_open=True), help="Limit; exit 7 when missed.")
@click.option("--min-output-tokens-per-s", type=click.FloatRange(min=0, min_open=True), help="Limit of the best level.")
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Folder for report.json, report.html.")
@options.store
@options.output
@options.quiet
def validate(
    deployment: str | None,
    url: str | None,
    artifact: str | None,
    checks: tuple[str, ...],
    report: Path | None,
    store_root: Path | None,
    output: str,
    quiet: bool,
    **load: Any,
) -> None:
    """Smoke, tokenizer parity, greedy parity and throughput of DEPLOYMENT (default: the only one), and a verdict."""
    from serving.validate.report import write_report
    from serving.validate.run import validate as run_checks

    store = open_store(store_root)
    endpoint = open_endpoint(store, deployment, url)
    folder = _artifact_folder(store, deployment, artifact, url)
    content = manifest.load(folder) if folder else None
    result = run_checks(
        endpoint,
        _plan(content, load),
        subject=_subject(store, folder, content),
        checks=checks,
        talk=StderrTalk(quiet=quiet or output == "json"),
    )
    if report is not None:
        _, page = write_report(result, report)
        click.echo(f"report: {page}", err=True)
    if output == "json":
        options.show_json(result.to_json())
    else:
        _show(result)
    result.raise_for_failure()


def _artifact_folder(store: Store, deployment: str | None, artifact: str | None, url: str | None) -> Path | None:
    if url is None:
        return Path(find_deployment(store, deployment).artifact)
    return store.find_artifact(artifact) if artifact else None


def _plan(content: Mapping[str, Any] | None, load: Mapping[str, Any]) -> ValidationPlan:
    """The artifact's own load and limits, else the defaults; what stands on the command line wins."""
    if content is not None:
        written = dict(content["spec"]["validation"])
    else:
        load_by_default = {
            "requests_per_level": REQUESTS_PER_LEVEL,
            "input_len": INPUT_LEN,
            "output_len": OUTPUT_LEN,
        }
        written = {**ValidationSpec().model_dump(), **load_by_default}
    plan = ValidationPlan(**{**written, "concurrencies": tuple(written["concurrencies"])})
    return replace(plan, **{key: value for key, value in load.items() if value})


def _subject(store: Store, folder: Path | None, content: Mapping[str, Any] | None) -> Subject:
    if folder is None or content is None:
        return Subject()
    checkpoint, reason = _same_weights(store, content)
    return Subject(
        tokenizer_dir=folder / "tokenizer",
        checkpoint=checkpoint,
        no_checkpoint_reason=reason,
        add_special_tokens=content["spec"]["serving"]["add_special_tokens"],
        about={key: content[key] for key in ("identifier", "digest", "runtime", "precision", "target", "versions")},
    )


def _same_weights(store: Store, content: Mapping[str, Any]) -> tuple[Path | None, str]:
    """The checkpoint that the artifact was built from, if its bytes are still the same; else why there is none."""
    if content["runtime"] != "cpu" or content["precision"] not in ("bf16", "fp16"):
        return None, "greedy tokens can only equal transformers' for unquantized builds of the cpu runtime"
    record = store.get_ref(content["identifier"])
    if record is None:
        return None, "the store does not say where the checkpoint lay"
    trusted, digests = bool(content["spec"]["trust_remote_code"]), DigestCache(store.digests_file)
    try:
        found = fetch(record["source"], trust_remote_code=trusted, digests=digests, talk=Silent())
    except KitError as error:
        return None, f"the checkpoint cannot be read any more: {error.happened}"
    if found.digest != content["model"]["digest"]:
        return None, f"{record['source']} has changed since the build"
    return found.path, ""


def _show(result: Any) -> None:
    from rich.console import Console

    from serving.validate.table import print_report

    print_report(result, Console(highlight=False, width=None if sys.stdout.isatty() else 120))
