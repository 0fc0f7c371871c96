"""A night's plan as JSON and as a table."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from serving.nightly.plan import NightPlan, PlannedCell
from serving.nightly.record import Action

_FEW = 20
"""Up to so many cells, unchanged ones have lines of their own."""

_COLOURS: Mapping[Action, str] = {"build": "yellow", "measure": "cyan", "skip": "dim", "impossible": "red"}


def as_json(plan: NightPlan) -> dict[str, Any]:
    """The whole plan, plain values."""
    return {
        "cells": [
            {
                "identifier": row.identifier,
                "action": row.action,
                "why": row.why,
                "changes": list(row.changes),
                "stages": list(row.stages),
                "sku": row.cell.sku,
                **({} if row.estimate is None else asdict(row.estimate)),
            }
            for row in plan.cells
        ],
        "counts": dict(Counter(row.action for row in plan.cells)),
        "total": _total(plan.work),
        "upstream": dict(plan.upstream),
    }


def show(plan: NightPlan, *, every: bool) -> None:
    """Work first, then what cannot be, then what is unchanged; totals below."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("cell", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("why", overflow="fold")
    for name in ("minutes", "GB", "RAM GB", "$"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = plan.cells if every or len(plan.cells) <= _FEW else [row for row in plan.cells if row.action != "skip"]
    order = list(_COLOURS)
    for row in sorted(shown, key=lambda row: order.index(row.action)):
        colour = _COLOURS[row.action]
        table.add_row(row.identifier, f"[{colour}]{row.action}[/{colour}]", row.why.split("\n", 1)[0], *_numbers(row))
    if shown:
        console.print(table)
        console.print()
    console.print(_summary(plan))


def _numbers(row: PlannedCell) -> tuple[str, ...]:
    found = row.estimate
    if found is None:
        return "", "", "", ""
    return (
        "unknown" if found.minutes is None else f"{found.minutes:.1f}",
        f"{found.artifact_bytes / 1e9:,.2f}",
        f"{found.memory_bytes / 1e9:,.1f}",
        "" if found.usd is None else f"{found.usd:,.2f}",
    )


def _summary(plan: NightPlan) -> str:
    counts = Counter(row.action for row in plan.cells)
    words = ", ".join(f"{counts[action]} {action}" for action in _COLOURS if counts[action])
    total = _total(plan.work)
    cells = f"{len(plan.cells)} cell" + ("s" if len(plan.cells) != 1 else "")
    if not plan.work:
        return f"{cells}: {words}; nothing to do"
    known = f"{total['minutes']:.1f} minutes one after another" if total["minutes"] is not None else "minutes unknown"
    unknown = f", {total['unknown']} of {len(plan.work)} unknown" if total["unknown"] and total["minutes"] else ""
    dollars = f", ${total['usd']:,.2f}" if total["usd"] else ""
    return f"{cells}: {words}; {known}{unknown}, {total['gigabytes']:,.2f} GB{dollars}"


def _total(rows: Sequence[PlannedCell]) -> dict[str, Any]:
    """Sums of what is known, and of how many cells the minutes are not."""
    found = [row.estimate for row in rows if row.estimate is not None]
    return {
        "minutes": _sum(row.minutes for row in found),
        "unknown": len(rows) - sum(row.minutes is not None for row in found),
        "gigabytes": sum(row.artifact_bytes for row in found) / 1e9,
        "usd": _sum(row.usd for row in found),
    }


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
