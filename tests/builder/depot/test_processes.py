"""Real processes on one depot in a folder: racing, and killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from builder import manifest
from builder.depot import Depot
from builder.depot.records import CellName
from builder.store import Store
from trtllm_kit.console import Silent

_COUNT = """
import sys
from dataclasses import replace
from builder.depot import Depot, LostRace
from builder.depot.records import CellName

url, name, times = sys.argv[1:]
depot, cell, done = Depot.open(url), CellName.parse(name), 0
print("ready", flush=True)
while done < int(times):
    seen = depot.read(cell)
    count = int(seen.record.words) if seen.number else 0
    try:
        depot.move(cell, seen, replace(seen.record, words=str(count + 1)))
        done += 1
    except LostRace:
        pass
"""

_PROMOTE = """
import itertools, sys
from pathlib import Path
from builder import manifest
from builder.depot import Depot
from builder.depot.records import CellName, Entry, Verdict
from trtllm_kit.console import Silent

url, name, *folders = sys.argv[1:]
depot, cell = Depot.open(url), CellName.parse(name)
verdict = Verdict(decision="promote", against=None, reasons=(), night="n")
for folder in itertools.cycle(map(Path, folders)):
    seen = depot.read(cell)
    with depot.publish(folder, talk=Silent()) as upload:
        entry = Entry(digest=manifest.load(folder)["digest"], upload=upload, key="k", inputs={}, night="n")
        built = depot.move(cell, seen, seen.record.built(entry, at_unix_s=1.0))
    depot.move(cell, built, built.record.judged(verdict, at_unix_s=2.0))
    print("promoted", flush=True)
"""


def _start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


def test_eight_processes_that_count_in_one_cell_lose_nothing(tmp_path: Path, cell: CellName) -> None:
    processes = [_start(_COUNT, str(tmp_path), str(cell), "10") for _ in range(8)]
    assert [process.wait(120) for process in processes] == [0] * 8
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    history = Depot.open(str(tmp_path)).history(cell)
    assert [version.number for version in history] == list(range(1, 81))
    assert [version.record.words for version in history] == [str(count) for count in range(1, 81)]


def test_whenever_a_night_is_killed_the_current_build_is_whole(
    tmp_path: Path, cell: CellName, artifact: Callable[..., Path]
) -> None:
    url, folders = str(tmp_path / "depot"), [str(artifact(content)) for content in ("one", "two", "three")]
    moves = 0
    for round_ in range(6):
        night = _start(_PROMOTE, url, str(cell), *folders)
        assert night.stdout is not None
        for _ in range(2):
            assert night.stdout.readline() == "promoted\n"
        time.sleep(random.uniform(0, 0.02))
        night.kill()
        night.wait()
        night.stdout.close()

        depot = Depot.open(url)
        history = depot.history(cell)
        assert [version.number for version in history] == list(range(1, len(history) + 1))
        assert len(history) >= moves + 4
        moves = len(history)
        for name, build in depot.read(cell).record.entries().items():
            store = Store(tmp_path / f"store-{round_}-{name}")
            assert (
                manifest.verify(depot.pull(build.digest, build.upload, store, talk=Silent()))["digest"] == build.digest
            )
        depot.collect(keep_days=0, dry_run=False)
