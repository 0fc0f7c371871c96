"""`trtllm-kit validate`: prove a deployment, with a verdict on screen, in JSON and as a page; compare two results."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder import manifest
from builder.store import Store
from serving.validate.run import CHECKS
from trtllm_kit.cli import options
from trtllm_kit.cli.default_group import DefaultGroup
from trtllm_kit.cli.session import open_store
from trtllm_kit.cli.validate_load import LoadRequest, load_options
from trtllm_kit.cli.validate_subject import SubjectRequest, subject_options
from trtllm_kit.cli.validate_target import TargetRequest, target_options
from trtllm_kit.console import StderrTalk
from trtllm_kit.errors import PerformanceError, UsageError
from trtllm_kit.stamps import stamp

if TYPE_CHECKING:
    from rich.console import Console

    from serving.validate.load import Load
    from serving.validate.results import ValidationReport
    from serving.validate.run import Subject

_INTERRUPTED = 130


@click.group(cls=DefaultGroup, default="run")
def validate() -> None:
    """Prove a deployment, or compare two results.

    \b
    trtllm-kit validate [DEPLOYMENT]     (`validate run --help` for all options)
    trtllm-kit validate compare A B
    """


@validate.command()
@target_options
@click.option("--check", "checks", multiple=True, type=click.Choice(list(CHECKS)), help="Only this; repeat for more.")
@load_options
@subject_options
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), help="Folder for page, JSON and records.")
@click.option("--save-baseline", is_flag=True, help="Hold later results of this SKU, model and load against this one.")
@options.store
@options.output
@options.quiet
def run(
    checks: tuple[str, ...],
    report: Path | None,
    save_baseline: bool,
    store_root: Path | None,
    output: str,
    quiet: bool,
    **asked: Any,
) -> int:
    """Smoke, tokenizer parity, greedy parity and throughput of DEPLOYMENT (default: the only one), and a verdict."""
    from serving.validate.baseline import save_baseline as save
    from serving.validate.report import write_report
    from serving.validate.run import validate as run_checks

    target, loading, about = TargetRequest.take(asked), LoadRequest.take(asked), SubjectRequest.take(asked)
    store = open_store(store_root)
    endpoint, folder = target.endpoint(store), target.artifact_folder(store)
    content = manifest.load(folder) if folder else None
    load = loading.load(content, folder / "tokenizer" if folder else None)
    subject = about.subject(store, folder, content)
    baseline = _baseline(store, subject, load)
    if save_baseline and (baseline is None or (checks and "throughput" not in checks)):
        raise UsageError(
            "--save-baseline without " + ("knowing of what" if baseline is None else "a throughput"),
            expected="an artifact, or --sku, --model and --precision with --url; and the check throughput",
        )
    results = _results_folder(store, report, subject)
    found = run_checks(
        endpoint,
        replace(load, metrics_url=load.metrics_url or target.metrics_url(store, endpoint)),
        results=results,
        subject=subject if save_baseline else replace(subject, baseline=baseline),
        checks=checks,
        search=loading.search(),
        talk=StderrTalk(quiet=quiet or output == "json"),
    )
    click.echo(f"report: {write_report(found, results)}", err=True)
    _show(found, output)
    if found.interrupted:
        click.echo(f"interrupted; what was measured is in {results}", err=True)
        return _INTERRUPTED
    if folder is not None and content is not None and not checks:
        manifest.append_validation(folder, _entry(found, content))
    found.raise_for_failure()
    if save_baseline and baseline is not None:
        save(results, baseline)
        click.echo(f"baseline: {baseline}", err=True)
    return 0


@validate.command()
@click.argument("a", type=click.Path(path_type=Path, exists=True))
@click.argument("b", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Percent that do not matter, however sure.",
)
@options.output
def compare(a: Path, b: Path, tolerance: float, output: str) -> None:
    """Tell whether B is slower than A beyond noise; exit 7 when it is.

    A and B are results folders of `validate`, their report.json, or AIPerf's profile_export_aiperf.json.
    """
    from serving.validate.compare import compare as compare_sides
    from serving.validate.sides import read_side
    from serving.validate.table import print_comparison

    found = compare_sides(read_side(a), read_side(b), tolerance=tolerance / 100)
    if output == "json":
        options.show_json(found.to_json())
    else:
        print_comparison(found, _console())
    if found.worse:
        worse = [row.words for row in found.rows if row.status == "worse"]
        raise PerformanceError(f"{b} is slower than {a}: " + "; ".join(worse[:3]), expected="no slower beyond noise")


def _baseline(store: Store, subject: Subject, load: Load) -> Path | None:
    """Where the baseline of this build and load lies or would lie; None where it is not known what is served."""
    from serving.validate.baseline import baseline_folder

    identifier = subject.about.get("identifier")
    if identifier is None:
        return None
    return baseline_folder(store.root, str(identifier), load.plan.input_len, load.plan.output_len)


def _results_folder(store: Store, report: Path | None, subject: Subject) -> Path:
    if report is None:
        started = stamp().removesuffix("Z")
        return store.root / "validations" / f"{started}-{subject.about.get('identifier', 'served')}-{os.getpid()}"
    if (report / "runs").exists():
        raise UsageError(f"{report} holds results already", expected="a new folder", fix="give another --report")
    return report


def _entry(found: ValidationReport, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the artifact's manifest keeps of a complete validation."""
    check = found.check("throughput")
    levels = check.data.get("levels", ()) if check else ()
    best = max(levels, key=lambda level: float(level["output_tokens_per_s"]), default=None)
    return {
        "at_unix_s": found.started_unix_s,
        "sku": content["target"]["sku"],
        "status": found.verdict.status,
        "checks": {one.name: one.status for one in found.checks},
        "reasons": list(found.verdict.reasons),
        "output_tokens_per_s": best["output_tokens_per_s"] if best else None,
        "at": best["name"] if best else None,
        "limits": dict(found.limits),
    }


def _show(result: ValidationReport, output: str) -> None:
    from serving.validate.table import print_report

    if output == "json":
        options.show_json(result.to_json())
    else:
        print_report(result, _console())


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)
