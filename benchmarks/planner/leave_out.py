"""How good the performance model is on rows that it has not seen: the tables of docs/performance_model.md.

    python benchmarks/planner/leave_out.py --measured trtllm_measured_latency.csv

Fits anew without a cell (SKU, model, TP), a SKU, a model or a version, and predicts what was left out. Beside it stand
the figures published for the best peer, AIConfigurator 0.12 (zero-shot), on the same kind of rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.fit import Model, Rows, fit, held_out, load
from profiles.performance import bands
from profiles.performance.columns import Array, Columns

Chosen = np.ndarray[Any, np.dtype[np.bool_]]

_FAST = ("h100_sxm", "h200_sxm", "b200_sxm")
_EARLY = ("0.10", "0.11")
_SKU_GROUPS = (("h100_sxm", "h200_sxm"), ("a100_sxm_80gb", "a100_pcie_80gb"))


def _is(facts: Columns, group: str, *levels: str) -> Chosen:
    return np.isin(np.array(facts.levels[group]), levels)


def _dense(facts: Columns) -> Chosen:
    return np.asarray(_is(facts, "kind", "saturated") & _is(facts, "family", "dense"))


GROUPS: dict[str, tuple[str, Callable[[Columns], Chosen]]] = {
    "dense FP8/FP4, H100": (
        "4.7 / 6.1",
        lambda f: _dense(f) & _is(f, "sku", "h100_sxm") & ~_is(f, "math", "16"),
    ),
    "dense FP8/FP4, H200": ("6.4 / 8.1", lambda f: _dense(f) & _is(f, "sku", "h200_sxm")),
    "dense FP8/FP4, B200": ("7.9 / 12.2", lambda f: _dense(f) & _is(f, "sku", "b200_sxm")),
    "dense FP8/FP4, the three": ("", lambda f: _dense(f) & _is(f, "sku", *_FAST) & ~_is(f, "math", "16")),
    "dense FP16, H100": ("", lambda f: _dense(f) & _is(f, "sku", "h100_sxm") & _is(f, "math", "16")),
    "dense, A100-SXM": ("15 / 21", lambda f: _dense(f) & _is(f, "sku", "a100_sxm_80gb")),
    "dense, L40S": ("82 at TP8", lambda f: _dense(f) & _is(f, "sku", "l40s")),
    "all, RTX PRO 6000 (TP and PP)": ("", lambda f: _is(f, "kind", "saturated") & _is(f, "sku", "rtx_pro_6000")),
    "all, A100-PCIe": ("50 / 54", lambda f: _is(f, "kind", "saturated") & _is(f, "sku", "a100_pcie_80gb")),
    "MoE, all SKUs": ("13-31 / 14-37", lambda f: _is(f, "kind", "saturated") & _is(f, "family", "moe")),
    "dense throughput, all SKUs": ("", _dense),
    "all throughput": ("", lambda f: _is(f, "kind", "saturated")),
    "TPOT, dense": ("", lambda f: _is(f, "kind", "serve") & _is(f, "family", "dense")),
    "TPOT, MoE": ("", lambda f: _is(f, "kind", "serve") & _is(f, "family", "moe")),
}
"""By name: median / mean absolute error of the peer in percent as published, and which rows."""


def table(title: str, facts: Columns, misses: Array) -> list[str]:
    """Errors by group, over all versions and from 0.12 on."""
    late = ~_is(facts, "version", *_EARLY)
    lines = [f"\n{title}\n", "| rows | n | median / mean / p90, % | from 0.12 on | peer, published: median / mean |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, (peer, chosen) in GROUPS.items():
        here = chosen(facts) & np.isfinite(misses)
        if here.any():
            figures = [_figures(misses[here]), _figures(misses[here & late])]
            lines.append(f"| {name} | {here.sum()} | {' | '.join(figures)} | {peer} |")
    return lines


def _figures(misses: Array) -> str:
    errors = 100 * np.abs(np.expm1(misses))
    if not len(errors):
        return ""
    return " / ".join(f"{figure:.1f}" for figure in (np.median(errors), np.mean(errors), np.quantile(errors, 0.9)))


def skus_of_known_architecture(rows: Rows, model: Model) -> list[str]:
    """SKUs left out whole whose architecture another SKU shows."""
    misses, _ = held_out(rows, model, rows.facts.levels["sku"])
    known = _is(rows.facts, "sku", *(sku for group in _SKU_GROUPS for sku in group))
    return table("SKU left out, its architecture known", rows.facts, np.where(known, misses, np.nan))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all tables; minutes, most of them for the cells."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--measured", type=Path, required=True, metavar="CSV")
    rows = load(parser.parse_args(arguments).measured)
    model = fit(rows)
    print("\n".join(table("Fitted rows", rows.facts, model.misses(rows)[0])), flush=True)
    cells, ttft = held_out(rows, model, rows.cell)
    print("\n".join(table("Cell (SKU, model, TP) left out", rows.facts, cells)), flush=True)
    print("\n" + bands.ttft_held(rows.cell, ttft), flush=True)
    named, _ = held_out(rows, model, [f"{cell} {name}" for cell, name in zip(rows.cell, rows.name, strict=True)])
    print("\n".join(table("The same, models told apart by their printed names", rows.facts, named)), flush=True)
    print("\n".join(skus_of_known_architecture(rows, model)), flush=True)
    for group in ("model", "version"):
        misses, _ = held_out(rows, model, rows.facts.levels[group])
        print("\n".join(table(f"{group.capitalize()} left out", rows.facts, misses)), flush=True)


if __name__ == "__main__":
    main()
