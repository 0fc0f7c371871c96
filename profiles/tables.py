"""Facts come from CSV files beside this module: read once, when first asked for, so that importing costs nothing."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path

_DATA = Path(__file__).parent / "data"


@functools.cache
def rows(name: str) -> tuple[Mapping[str, str], ...]:
    """All rows of `data/<name>.csv`, as written; an empty cell is an empty string."""
    with (_DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def number(cell: str) -> float | None:
    """A numeric cell; None when the fact is not confirmed."""
    return float(cell) if cell else None


def words(cell: str) -> tuple[str, ...]:
    """A cell that lists words separated by spaces."""
    return tuple(cell.split())
