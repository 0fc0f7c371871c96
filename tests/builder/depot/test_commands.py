"""`artifact refs`, `artifact gc` and `nightly rollback`, as a person types them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.depot import Depot
from builder.depot.records import CellName, Entry, Verdict
from trtllm_kit.console import Silent


@pytest.fixture
def nights(tmp_path: Path, cell: CellName, artifact: Callable[..., Path], entry: Callable[..., Entry]) -> list[Entry]:
    """A depot in `depot` beside the kit's folder, where three builds were promoted one after the other."""
    depot = Depot.open(str(tmp_path / "depot"))
    for night in ("one", "two", "three"):
        folder, seen = artifact(night), depot.read(cell)
        with depot.publish(folder, talk=Silent()) as upload:
            built = depot.move(cell, seen, seen.record.built(entry(folder, upload, night), at_unix_s=1_763_690_400.0))
        verdict = Verdict(decision="promote", against=None, reasons=("no worse",), night=night)
        depot.move(cell, built, built.record.judged(verdict, at_unix_s=1_763_694_000.0))
    promoted = [version.record.current for version in depot.history(cell)[1::2]]
    return [current for current in promoted if current is not None]


def test_refs_shows_every_cell(kit: Any, tmp_path: Path, cell: CellName, nights: list[Entry]) -> None:
    head, line = kit.ok("artifact", "refs", "--depot", str(tmp_path / "depot")).out.splitlines()
    assert head.split()[:4] == ["cell", "candidate", "current", "previous"]
    assert line.split() == [
        str(cell), "-", nights[2].digest[:12], nights[1].digest[:12], "2025-11-21", "03:00", "promote:", "no", "worse",
    ]  # fmt: skip
    (tree,) = kit.ok("artifact", "refs", "--output", "json", TRTLLM_KIT_DEPOT=str(tmp_path / "depot")).json
    assert (tree["cell"], tree["identifier"], tree["number"]) == (str(cell), str(cell.identifier), 6)
    assert tree["candidate"] is None
    assert (tree["current"]["digest"], tree["current"]["upload"]) == (nights[2].digest, nights[2].upload)


def test_refs_shows_every_move_of_a_cell(kit: Any, tmp_path: Path, cell: CellName, nights: list[Entry]) -> None:
    depot = str(tmp_path / "depot")
    lines = kit.ok("artifact", "refs", "--depot", depot, "--history", "m-1b/fp8").out.splitlines()
    assert [line.split()[0] for line in lines] == ["move", "1", "2", "3", "4", "5", "6"]
    trees = kit.ok("artifact", "refs", "--depot", depot, "--history", str(cell), "--output", "json").json
    assert [tree["current"]["digest"] for tree in trees[1::2]] == [build.digest for build in nights]
    unknown = kit.run("artifact", "refs", "--depot", depot, "--history", "m-2b")
    assert unknown.code == 3 and str(cell) in unknown.err


def test_refs_of_an_empty_depot_and_of_none(kit: Any, tmp_path: Path) -> None:
    empty = kit.ok("artifact", "refs")
    assert empty.out == "" and str(kit.store / "depot") in empty.err
    (tmp_path / "file").write_text("")
    assert kit.run("artifact", "refs", "--depot", str(tmp_path / "file")).code == 4


def test_rollback_and_back_again(kit: Any, tmp_path: Path, cell: CellName, nights: list[Entry]) -> None:
    url = str(tmp_path / "depot")
    said = kit.ok("nightly", "rollback", "m-1b/fp8/l40s", "--depot", url).out
    assert nights[1].digest[:12] in said and nights[2].digest[:12] in said
    record = Depot.open(url).read(cell).record
    assert (record.current and record.current.digest, record.previous and record.previous.digest) == (
        nights[1].digest,
        nights[2].digest,
    )
    answer = kit.ok("nightly", "rollback", str(cell.identifier), "--depot", url, "--output", "json").json
    assert answer == {"cell": str(cell), "current": nights[2].digest, "previous": nights[1].digest}
    assert [version.number for version in Depot.open(url).history(cell)][-1] == 8


def test_nothing_to_roll_back_to(kit: Any, tmp_path: Path, cell: CellName, artifact: Any, entry: Any) -> None:
    depot, folder = Depot.open(str(tmp_path / "depot")), artifact("one")
    seen = depot.read(cell)
    with depot.publish(folder, talk=Silent()) as upload:
        depot.move(cell, seen, seen.record.built(entry(folder, upload), at_unix_s=1.0))
    refused = kit.run("nightly", "rollback", str(cell), "--depot", depot.url)
    assert refused.code == 3 and "no previous build" in refused.err


def test_gc_of_a_depot(kit: Any, tmp_path: Path, nights: list[Entry]) -> None:
    gone = f"artifacts/{nights[0].digest}/{nights[0].upload}"
    assert kit.ok("artifact", "gc", "--depot", str(tmp_path / "depot")).out == ""  # younger than a week
    would = kit.ok("artifact", "gc", "--depot", str(tmp_path / "depot"), "--keep-days", "0", "--dry-run")
    assert would.out.split() == [gone] and (tmp_path / "depot" / gone).is_dir()
    done = kit.ok("artifact", "gc", "--depot", str(tmp_path / "depot"), "--keep-days", "0", "--output", "json")
    assert done.json == {"removed": [gone], "dry_run": False}
    assert sorted(path.name for path in (tmp_path / "depot" / "artifacts").iterdir()) == sorted(
        build.digest for build in nights[1:]
    )


def test_gc_of_the_store_takes_old_results_of_validate(kit: Any) -> None:
    stamps = {days: time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - days * 86400)) for days in (1, 30)}
    folders = {days: kit.store / "validations" / f"{stamp}-m-bf16-cpu-tp1pp1-cpu-1" for days, stamp in stamps.items()}
    by_hand = kit.store / "validations" / "mine"
    baseline = kit.store / "baselines" / "m-bf16-cpu-tp1pp1-cpu-isl8-osl8"
    for folder in (*folders.values(), by_hand, baseline):
        folder.mkdir(parents=True)
        (folder / "report.json").write_text("{}")
        os.utime(folder, (0, 0))
    assert kit.ok("artifact", "gc").out.split() == [str(folders[30])]
    assert not folders[30].exists() and folders[1].is_dir() and by_hand.is_dir() and baseline.is_dir()
    assert kit.ok("artifact", "gc", "--keep-days", "0.5").out.split() == [str(folders[1])]
