"""Nights as the nightly leaves them in a depot, written by the records' own code."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.depot import Depot
from serving.nightly.record import Action, CellResult, Figure, NightRecord, StageTime

FIRST_UNIX_S = 1_792_375_200.0  # 2026-10-19 02:00 UTC
DAY_S = 86_400.0
CELL = "llama-3.1-8b-fp8-h100_sxm-tp1pp1-tensorrt"
OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64


def night_name(number: int) -> str:
    """Of the `number`-th night, from 0."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(FIRST_UNIX_S + number * DAY_S)) + f"-{number:04x}"


def throughput(candidate: float, incumbent: float | None, **fields: Any) -> Figure:
    """Tokens per second of the new build and of the one in service."""
    change = None if incumbent is None else candidate / incumbent - 1
    known: dict[str, Any] = {
        "metric": "output_tokens_per_s",
        "unit": "tokens/s",
        "candidate": candidate,
        "incumbent": incumbent,
        "change": change,
        "low": None if change is None else change - 0.02,
        "high": None if change is None else change + 0.02,
        "limit": -0.05,
        "status": "good",
    }
    return Figure(**{**known, **fields})


def cell_result(identifier: str = CELL, **fields: Any) -> CellResult:
    """A cell that was built, unless the fields say otherwise."""
    return CellResult(**{"identifier": identifier, "status": "built", "words": "built", **fields})


def write(
    depot: Depot,
    number: int,
    results: Iterable[CellResult] = (),
    *,
    cells: Mapping[str, Action] | None = None,
    ended: bool = True,
    **fields: Any,
) -> str:
    """Put a night into the depot; its plan is that every cell was to be built. Returns its name."""
    name, found = night_name(number), list(results)
    start = FIRST_UNIX_S + number * DAY_S
    record = NightRecord(
        night=name,
        started_unix_s=start,
        ended_unix_s=start + 3600 if ended else None,
        cells={one.identifier: "build" for one in found} if cells is None else cells,
        **fields,
    )
    depot.write_text(f"nights/{name}/night.json", json.dumps(record.to_json()))
    for one in found:
        depot.write_text(f"nights/{name}/cells/{one.identifier}.json", json.dumps(one.to_json()))
    return name


def slower_from(depot: Depot, first_slow: int, count: int, *, promoted: bool) -> None:
    """Nights of one cell at 1,200 ± 1 % tokens/s; from one night on a new TensorRT-LLM costs 16 %.

    Args:
        promoted: the slower build came into service; else it is rejected night after night.
    """
    noise = random.Random(3)
    for number in range(count):
        slow = number >= first_slow
        new = (1010 if slow else 1200) * math.exp(noise.gauss(0, 0.01))
        old = (1010 if slow and promoted else 1200) * math.exp(noise.gauss(0, 0.01))
        promotes = number == 0 or (promoted and number == first_slow)
        served = NEW if slow and promoted else OLD
        row = cell_result(
            decision="promote" if promotes else "keep",
            artifact=served if promotes else f"{number:064x}",
            current=served,
            figures=(throughput(new, None if number == 0 else old),),
            changes=("compile.trtllm_version: 1.2.0 → 1.2.1",) if number == first_slow else (),
            stages=(StageTime(name="compile", action="run", seconds=60),),
            seconds=100,
            started_unix_s=FIRST_UNIX_S + number * DAY_S,
        )
        write(depot, number, [row], upstream={"trtllm": "1.2.1" if slow else "1.2.0"})


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    """An empty one in a folder."""
    return Depot.open(str(tmp_path / "depot"))


@pytest.fixture
def nights() -> SimpleNamespace:
    """The functions above, for tests, which cannot import this file."""
    functions: tuple[Callable[..., Any], ...] = (night_name, throughput, cell_result, write, slower_from)
    return SimpleNamespace(**{one.__name__: one for one in functions}, CELL=CELL, OLD=OLD, NEW=NEW, OTHER=OTHER)
