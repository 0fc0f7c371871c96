"""`trtllm-kit plan`: what a build would do, or, with a load, which configuration should serve it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profiles import versions
from profiles.precisions import KV_DTYPES
from trtllm_kit.cli import options
from trtllm_kit.cli.price_options import PriceRequest, price_options
from trtllm_kit.errors import CHANGES_PENDING, UsageError

if TYPE_CHECKING:
    from profiles.capacity import Demand


@click.command()
@options.build_options
@click.option("--check", is_flag=True, help=f"Exit with {CHANGES_PENDING} when something would be built.")
@click.option("--isl", type=click.IntRange(min=1), help="Tokens of a prompt; with --osl the plan is of capacity.")
@click.option("--osl", type=click.IntRange(min=1), help="Tokens of an answer.")
@click.option("--ttft", "ttft_ms", type=options.MILLISECONDS, metavar="MS", help="Limit of TTFT; 500, 500ms or 0.5s.")
@click.option("--tpot", "tpot_ms", type=options.MILLISECONDS, metavar="MS", help="Limit of TPOT; likewise.")
@click.option("--kv-dtype", type=click.Choice(KV_DTYPES), help="KV cache.  [default: fp8 with FP8 math, else auto]")
@click.option("--trtllm-version", default=versions.DEFAULT, show_default=True, help="What will serve it.")
@click.option("--max-gpus", type=click.IntRange(min=1), default=8, show_default=True, help="GPUs of a replica.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw it: .html, .svg or .png.")
@price_options
def plan(
    check: bool,
    isl: int | None,
    osl: int | None,
    ttft_ms: float | None,
    tpot_ms: float | None,
    plot: Path | None,
    **request: Any,
) -> int:
    """Show what a build will do and why; with --isl and --osl, weigh every way to serve that load.

    \b
    trtllm-kit plan                                                     what `build model` will do
    trtllm-kit plan --model llama-3.1-70b --sku any --isl 2048 --osl 512 --ttft 1000 --tpot 40
    trtllm-kit plan --model llama-3.1-8b --sku l4,l40s --precision bf16,fp8 --isl 512 --osl 128
    """
    prices = PriceRequest(**{key: request.pop(key) for key in PriceRequest.__dataclass_fields__})
    bounds = {key: request.pop(key) for key in ("kv_dtype", "trtllm_version", "max_gpus")}
    if isl is None and osl is None:
        if plot or ttft_ms or tpot_ms:
            raise UsageError("--plot, --ttft and --tpot are for a plan of capacity", fix="add --isl and --osl")
        return _build_plan(request, check)
    if isl is None or osl is None:
        raise UsageError("a plan of capacity needs both --isl and --osl", fix="give the tokens of prompt and answer")
    from profiles.capacity import Demand

    demand = Demand(isl=isl, osl=osl, ttft_ms=ttft_ms, tpot_ms=tpot_ms)
    _capacity_plan(request, demand, bounds, plot, prices)
    return 0


def _capacity_plan(
    request: Mapping[str, Any], demand: Demand, bounds: Mapping[str, Any], plot: Path | None, prices: PriceRequest
) -> None:
    from profiles import choice, precisions, skus
    from profiles.capacity import Space, every_sku
    from trtllm_kit.cli import plan_report
    from trtllm_kit.cli.model_source import read_model

    versions.find(bounds["trtllm_version"])
    model_name, sku_id, precision = _what(request)
    model = read_model(model_name)
    space = Space(
        shape=model.shape,
        weights=model.weights,
        skus=every_sku() if sku_id == "any" else [skus.find(name) for name in sku_id.split(",")],
        precisions=[precisions.find(name).id for name in precision.split(",")] if precision else [],
        **bounds,
    )
    found = choice.plan(space, demand, prices.book(), prices.kind, prices.provider)
    prices.warn_of_old(point.price for point in found.best if point.price is not None)
    where = "any SKU" if sku_id == "any" else sku_id.replace(",", ", ")
    title = f"{model.name} on {where}: prompts of {demand.isl:,} and answers of {demand.osl:,} tokens"
    if plot is not None:
        from trtllm_kit.cli.plan_plot import write_plot

        write_plot(found, title, plot)
        click.echo(f"plot: {plot}", err=True)
    if request["output"] == "json":
        options.show_json({"model": model.name, **plan_report.as_json(found)})
    else:
        plan_report.show(found, title)


def _what(request: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """(model, SKUs or "any", precisions or None for all), both with commas: from the options, else from the spec."""
    model, sku, precision = request["model"], request["sku"], request["precision"]
    if model is None or request["spec_path"].exists():
        from trtllm_kit import spec as specs

        overrides = {
            **dict(specs.override(text) for text in request["settings"]),
            **({"model": model} if model else {}),
        }
        written = specs.load(request["spec_path"], overrides)
        model, sku, precision = written.model, sku or written.target.sku, precision or written.precision
    return model, "any" if sku in (None, "auto") else sku, None if precision == "auto" else precision


def _build_plan(request: Mapping[str, Any], check: bool) -> int:
    from trtllm_kit.cli.session import BuildRequest

    asked = BuildRequest(**request)
    pipeline = asked.pipeline()
    reports = pipeline.reports()
    if asked.output == "json":
        options.show_json(
            {
                "identifier": str(pipeline.plan.identifier),
                "spec": pipeline.plan.resolved_spec(),
                "reasons": dict(pipeline.plan.reasons),
                "warnings": list(pipeline.plan.warnings),
                "stages": [
                    {"name": row.name, "action": row.action, "reason": row.reason, "folder": str(row.folder)}
                    for row in reports
                ],
            }
        )
    else:
        _show(pipeline.plan, reports)
    pending = any(row.action == "run" for row in reports)
    return CHANGES_PENDING if check and pending else 0


def _show(plan: Any, reports: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"[bold]{plan.identifier}[/bold]")
    values = Table("key", "value", "why", box=None, pad_edge=False, header_style="dim")
    tree = plan.resolved_spec()
    for key, reason in sorted(plan.reasons.items()):
        values.add_row(key, _value(tree, key), reason)
    console.print(values)
    stages = Table("stage", "action", "why", box=None, pad_edge=False, header_style="dim")
    for row in reports:
        stages.add_row(row.name, row.action, row.reason)
    console.print()
    console.print(stages)


def _value(tree: Any, dotted: str) -> str:
    for part in dotted.split("."):
        tree = tree[part]
    return "none" if tree is None else str(tree)
