"""kill -9 of the nightly or of a worker at any moment, and two nightlies at once: the same refs as without."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MOMENTS = 6


def tree(unserved: dict[str, Any]) -> dict[str, Any]:
    return {"base": unserved, "matrix": {"sku": ["h100_sxm", "l40s", "l4"]}, "executor": {"jobs": 2}}


def children(pid: int) -> list[int]:
    """All processes below one."""
    try:
        direct = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*direct, *(below for child in direct for below in children(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def gone(pids: list[int]) -> bool:
    """Whether all have ended, which takes the kernel a moment."""
    deadline = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, pids))


def test_killed_at_any_moment_the_next_night_ends_in_the_same_state(
    unserved: dict[str, Any], make_matrix: Callable[[str], Any]
) -> None:
    calm = make_matrix("calm")
    calm.write(**tree(unserved))
    started = time.monotonic()
    assert calm.run()[0] == 0
    took_s, moments = time.monotonic() - started, random.Random(7)
    for number in range(MOMENTS):
        matrix = make_matrix(f"killed-{number}")
        matrix.write(**tree(unserved))
        process = matrix.kit.start("nightly", "run")
        time.sleep(moments.uniform(0.2, 1.0) * took_s)
        victims = children(process.pid)
        whole = number % 2 == 0 or not victims
        os.kill(process.pid if whole else moments.choice(victims), signal.SIGKILL)
        process.communicate(timeout=120)
        assert gone(victims), "the cells of a killed night go with it"
        matrix.intact()
        assert matrix.run()[0] == 0
        assert matrix.digests() == calm.digests()
        matrix.intact()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_night_that_is_stopped_ends_its_cells_and_is_reported(
    number: int, code: int, matrix: Any, unserved: dict[str, Any]
) -> None:
    matrix.write(**tree(unserved), report={"folder": "report"})
    process = matrix.kit.start("nightly", "run")
    while not children(process.pid):
        time.sleep(0.01)
    cells = children(process.pid)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == code
    assert gone(cells)
    (record,) = (matrix.kit.store / "depot" / "nights").glob("*/night.json")
    assert json.loads(record.read_text())["ended_unix_s"] is not None
    (page,) = (matrix.kit.folder / "report").glob("*/report.html")
    assert page.stat().st_size > 0


def test_two_nightlies_at_once_lose_nothing_and_agree(
    unserved: dict[str, Any], make_matrix: Callable[[str], Any]
) -> None:
    matrix = make_matrix("both")
    matrix.write(**tree(unserved))
    processes = [matrix.kit.start("nightly", "run", "--output", "json") for _ in range(2)]
    outcomes = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outcomes
    calm = make_matrix("calm")
    calm.write(**tree(unserved))
    calm.run()
    assert matrix.digests() == calm.digests()
    for cell in matrix.depot.read_all():
        numbers = [version.number for version in matrix.depot.history(cell)]
        assert numbers == list(range(1, len(numbers) + 1))
    matrix.intact()
    statuses = {row["status"] for out, _ in outcomes for row in json.loads(out)["results"]}
    assert statuses <= {"built", "skipped"}
