"""How far a prediction may be off, from rows that the fit had not seen, and what it is calibrated on."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from profiles.performance.columns import Array, Columns
from profiles.performance.constants import written


@dataclass(frozen=True)
class Basis:
    """What a prediction rests on; `low` and `high` are logarithms of true over predicted."""

    text: str
    low: float
    high: float
    calibrated: bool


_HELD = {"": (0.05, 0.95), "ttft ": (0.03, 0.97)}
"""Which quantiles bound an interval: TTFT differs so much from cell to cell that 90 % of rows need wider ones."""
_FEWEST = 20
_UNCALIBRATED = 0.7  # of a logarithm, both ways: an architecture left out is off by up to a factor of two


def table(title: str, facts: Columns, misses: Array) -> str:
    """Median, mean and 90th percentile of absolute errors in percent, by SKU, family and precision."""
    groups: dict[str, list[float]] = {}
    names = zip(*(facts.levels[name] for name in ("kind", "sku", "family", "math")), strict=True)
    for (kind, sku, family, math), miss in zip(names, misses, strict=True):
        if np.isfinite(miss):
            figure = "TPOT" if kind == "serve" else "throughput"
            groups.setdefault(f"{figure} {sku} {'moe' if family == 'moe' else math}", []).append(abs(np.expm1(miss)))
    lines = [f"{title}: {'':14}  rows  median   mean    p90  (absolute error, %)"]
    for name, errors in sorted(groups.items()):
        percent = 100 * np.array(errors)
        figures = (np.median(percent), np.mean(percent), np.quantile(percent, 0.9))
        lines.append(f"  {name:34} {len(percent):5}  " + "  ".join(f"{figure:5.1f}" for figure in figures))
    return "\n".join(lines)


def measure(facts: Columns, held_out: Mapping[str, tuple[Array, Array]]) -> dict[str, list[float]]:
    """5th and 95th percentile of log(true / predicted) by what was left out, kind, family and architecture."""
    found = {}
    for left_out, (misses, ttft) in held_out.items():
        for figure, values in (("", misses), ("ttft ", ttft)):
            for key, chosen in _groups(facts).items():
                errors = -values[chosen][np.isfinite(values[chosen])]
                if len(errors) >= _FEWEST:
                    low, high = np.quantile(errors, _HELD[figure])
                    found[f"{left_out} {figure}{key}"] = [round(float(low), 3), round(float(high), 3)]
    return found


def ttft_held(cells: Sequence[str], misses: Array) -> str:
    """How many TTFT rows lie in the interval that the left-out rows of all other cells make."""
    names, inside = np.array(cells), []
    known = np.isfinite(misses)
    for cell in sorted(set(cells)):
        low, high = np.quantile(misses[known & (names != cell)], _HELD["ttft "])
        here = misses[known & (names == cell)]
        inside += list((low <= here) & (here <= high))
    return f"TTFT under load: the interval holds {np.mean(inside):.0%} of {len(inside)} rows left out"


def seen(facts: Columns) -> dict[str, int]:
    """How many rows there were of each architecture, SKU, model and precision, by kind."""
    counts: dict[str, int] = {}
    for group in ("architecture", "sku", "model", "math"):
        for kind, level in zip(facts.levels["kind"], facts.levels[group], strict=True):
            key = f"{kind} {group} {level}"
            counts[key] = counts.get(key, 0) + 1
    for architecture, math in zip(facts.levels["architecture"], facts.levels["math"], strict=True):
        key = f"{architecture} {math}"
        counts[key] = counts.get(key, 0) + 1
    return counts


LEVELS = ("architecture", "kind", "family", "sku", "model", "math", "assumed")
"""What `basis` asks of a question."""


@functools.lru_cache(maxsize=4096)
def basis(
    architecture: str, kind: str, family: str, sku: str, model: str, math: str, assumed: str, figure: str
) -> Basis:
    """The basis of one question: the more of it the fit has not seen, the wider the interval."""
    rows: Mapping[str, int] = written()["seen"]
    known: Mapping[str, Sequence[float]] = written()["bands"]
    note = f" ({assumed} assumed)" if assumed else ""
    if f"{architecture} {math}" not in rows:
        has_any = any(key.startswith(f"{architecture} ") for key in rows)
        why = f"no rows of this precision on {architecture}" if has_any else f"no rows of {architecture}"
        return Basis(f"uncalibrated: roofline only, {why}{note}", -_UNCALIBRATED, _UNCALIBRATED, False)
    new_sku, new_model = (f"{kind} {name} {level}" not in rows for name, level in (("sku", sku), ("model", model)))
    left_out = ["cell"] + ["sku"] * new_sku + ["model"] * new_model
    found = [_band(known, f"{name} {figure}{kind}", family, architecture) for name in left_out]
    seen_rows = rows.get(f"{kind} sku {sku}")
    text = f"fitted on {seen_rows} rows of {sku}" if seen_rows else f"architecture {architecture}, SKU unseen"
    text += ", model unseen" if new_model else ""
    return Basis(text + note, min(low for low, _ in found), max(high for _, high in found), True)


def _band(known: Mapping[str, Sequence[float]], start: str, family: str, architecture: str) -> tuple[float, float]:
    """The narrowest group with enough rows."""
    for key in (f"{start} {family} {architecture}", f"{start} {family}", start):
        if key in known:
            return known[key][0], known[key][1]
    return -_UNCALIBRATED, _UNCALIBRATED


def _groups(facts: Columns) -> dict[str, Any]:
    """Positions by kind, family and architecture, by kind and family, and by kind alone."""
    places: dict[str, list[int]] = {}
    names = zip(*(facts.levels[name] for name in ("kind", "family", "architecture")), strict=True)
    for place, (kind, family, architecture) in enumerate(names):
        for key in (f"{kind} {family} {architecture}", f"{kind} {family}", kind):
            places.setdefault(key, []).append(place)
    return {key: np.array(found) for key, found in sorted(places.items())}
