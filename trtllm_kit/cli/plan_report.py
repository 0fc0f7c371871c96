"""A capacity plan on the terminal and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from profiles.choice import CapacityPlan
from profiles.operating import Point

_ROWS = 16


def as_json(plan: CapacityPlan) -> dict[str, Any]:
    """Everything that was weighed, best first."""
    return {
        "demand": asdict(plan.demand),
        "chosen": _point(plan.chosen),
        "why": plan.why,
        "front": [_point(point) for point in plan.front],
        "candidates": [_point(point) for point in plan.best],
    }


def show(plan: CapacityPlan, title: str) -> None:
    """A table of the best configuration of each kind, the front marked, and the choice with its reason."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 170)
    console.print(f"[bold]{title}[/bold]\n")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "configuration", "runtime", "KV"):
        table.add_column(name)
    for name in ("batch", "concurrent", "tokens/s/GPU", "", "tokens/s/user", "TTFT ms", "TPOT ms", "$/M out", "$/h"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    rows = _rows(plan)
    for point in rows:
        table.add_row(*_cells(point, plan))
    console.print(table)
    left_out = len(plan.best) - len(rows)
    if left_out > 0:
        console.print(f"[dim]and {left_out} more: --output json has all[/dim]")
    console.print(f"\n[bold]{plan.chosen.configuration}[/bold]: {plan.why}")
    console.print(
        f"[dim]> the choice, * on the Pareto front; intervals: {plan.chosen.seen.output_tokens_per_s.basis}[/dim]"
    )


def _rows(plan: CapacityPlan) -> list[Point]:
    """The cheapest, then the best of each further SKU, so that one SKU does not fill the table, then the rest."""
    best_of: dict[str, int] = {}
    for index, point in enumerate(plan.best):
        best_of.setdefault(point.configuration.sku.id, index)
    count = len(plan.best)
    wanted = list(dict.fromkeys((*range(min(_ROWS // 2, count)), *best_of.values(), *range(count))))
    return [plan.best[index] for index in sorted(wanted[:_ROWS])]


def _cells(point: Point, plan: CapacityPlan) -> Iterable[str]:
    one = point.configuration
    on_front = any(row.configuration is one for row in plan.front)
    per_gpu, usd = point.seen.output_tokens_per_s, point.usd_per_million
    yield ">" if point is plan.chosen else "*" if on_front else ""
    yield str(one)
    yield one.runtime
    yield one.kv_dtype
    yield f"{one.max_batch_size:,}"
    yield f"{point.concurrency:,}"
    yield f"{point.tokens_per_s_per_gpu:,.0f}"
    yield f"[dim]{per_gpu.low / one.gpus:,.0f}-{per_gpu.high / one.gpus:,.0f}[/dim]"
    yield f"{point.tokens_per_s_per_user:,.1f}"
    yield f"{point.seen.ttft_ms.value:,.0f}"
    yield f"{point.seen.tpot_ms.value:,.1f}"
    yield "" if usd is None else f"{usd:.3f}"
    yield "" if point.price is None else f"{'~' if point.price.estimate else ''}{point.usd_per_hour:.2f}"
    yield _remark(point, plan)


def _remark(point: Point, plan: CapacityPlan) -> str:
    remarks = [] if point.seen.output_tokens_per_s.calibrated else ["uncalibrated"]
    if plan.demand.excess(point.seen) > 1:
        remarks.append("over the limit")
    return ", ".join(remarks)


def _point(point: Point) -> dict[str, Any]:
    one = point.configuration
    return {
        "sku": one.sku.id,
        "precision": one.precision,
        "kv_cache_dtype": one.kv_dtype,
        "runtime": one.runtime,
        "tp_size": one.tp_size,
        "pp_size": one.pp_size,
        "gpus": one.gpus,
        "max_batch_size": one.max_batch_size,
        "max_num_tokens": one.max_num_tokens,
        "concurrency": point.concurrency,
        "output_tokens_per_s": asdict(point.seen.output_tokens_per_s),
        "tokens_per_s_per_gpu": point.tokens_per_s_per_gpu,
        "tokens_per_s_per_user": point.tokens_per_s_per_user,
        "ttft_ms": asdict(point.seen.ttft_ms),
        "tpot_ms": asdict(point.seen.tpot_ms),
        "usd_per_hour": point.usd_per_hour,
        "usd_per_million_output_tokens": point.usd_per_million,
        "price": None if point.price is None else {**asdict(point.price), "date": str(point.price.date)},
    }
