"""A night through the front door: from nothing to promoted, nothing touched when nothing changed, failures alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from builder.depot import Depot
from builder.depot.records import Verdict
from serving.nightly.executors.protocol import CellTask

CPU = "tiny-llama-bf16-cpu-tp1pp1-cpu"
H100 = "tiny-llama-bf16-h100_sxm-tp1pp1-pytorch"


def stamps(*folders: Path) -> dict[str, tuple[int, int]]:
    """Modification time and inode of every file and folder."""
    found = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}


def test_from_nothing_to_promoted_and_then_nothing_is_touched(matrix, tiny_llama: Path) -> None:
    matrix.write(
        base={"model": str(tiny_llama), "precision": "bf16"},
        include=[{"sku": "cpu"}, {"sku": "h100_sxm", "runtime": "pytorch"}],
        report={"folder": "report"},
    )
    outcome = matrix.kit.run("nightly", "run", "--output", "json")
    assert outcome.code == 0, outcome.err
    night, results = outcome.json["night"], {row["identifier"]: row for row in outcome.json["results"]}
    assert (results[CPU]["decision"], results[H100]["decision"]) == ("promote", "not_measured")
    assert matrix.results(night) == results
    assert [row["name"] for row in results[CPU]["stages"]][-3:] == ["package", "publish", "compare"]
    assert results[CPU]["size_bytes"] > tiny_llama.joinpath("model.safetensors").stat().st_size
    assert matrix.digests() == {
        CPU: (None, results[CPU]["artifact"], None),
        H100: (results[H100]["artifact"], None, None),
    }
    assert "publish done" in (matrix.kit.store / "depot" / results[CPU]["log"]).read_text()
    (page,) = (matrix.kit.folder / "report").glob("*/report.html")
    assert [str(page), str(page.with_name("night.json"))] == outcome.json["report"]
    assert json.loads((matrix.kit.store / "depot" / "nights" / night / "night.json").read_text())["exit_code"] == 0

    before = stamps(matrix.kit.store, matrix.kit.folder)
    again = matrix.kit.ok("nightly", "run", "--output", "json").json
    assert (again["night"], again["results"]) == (None, [])
    plan = matrix.plan("--recheck")
    assert {row["action"] for row in plan.values()} == {"skip"}
    assert matrix.kit.run("nightly", "plan", "--check").code == 0
    assert stamps(matrix.kit.store, matrix.kit.folder) == before

    code, results = matrix.run("--force", "--only", CPU)
    assert (code, results[CPU]["words"]) == (0, "built again, and the same bytes as in service")
    assert matrix.digests()[CPU][1] == results[CPU]["artifact"]


def test_times_of_past_nights_are_predicted_for_the_same_work(matrix, unserved: dict[str, Any]) -> None:
    matrix.write(base=unserved)
    _, results = matrix.run()
    took = {row["name"]: row["seconds"] for row in results[H100]["stages"]}
    matrix.write(base={**unserved, "serving": {"max_queue_size": 7}}, matrix={"name": ["tiny-llama", "twin"]})
    changed, twin = matrix.plan().values()
    assert changed["stages"] == ["render", "package", "compare"]
    assert changed["minutes"] * 60 == pytest.approx(sum(took[name] for name in changed["stages"]))
    assert changed["basis"] == "its own last times"
    assert "serving.max_queue_size: 0 → 7" in changed["why"] or "max_queue_size" in changed["why"]
    assert twin["minutes"] is None or twin["basis"].endswith(H100)


def test_a_failing_and_a_late_cell_stop_no_other(matrix, unserved: dict[str, Any], model_copy: Path) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    matrix.write(
        base=unserved,
        include=[{"name": "fine"}, {"name": "late", "precision": "int8_wo"}, {"name": "cut", "model": str(model_copy)}],
        limits={"stage_minutes": {"default": 5, "evaluate": 0.01}},
        executor={"jobs": 2},
        report={"folder": "report"},
    )
    code, results = matrix.run()
    assert code == 9
    assert (results["late-int8_wo-h100_sxm-tp1pp1-pytorch"]["status"]) == "timeout"
    assert results["late-int8_wo-h100_sxm-tp1pp1-pytorch"]["stage"] == "evaluate"
    assert results["cut-bf16-h100_sxm-tp1pp1-pytorch"]["status"] == "failed"
    assert "model.safetensors" in results["cut-bf16-h100_sxm-tp1pp1-pytorch"]["words"]
    assert len(list((matrix.kit.folder / "report").glob("*/report.html"))) == 1
    assert results["fine-bf16-h100_sxm-tp1pp1-pytorch"]["decision"] == "not_measured"


def test_a_build_that_needs_a_gpu_that_is_not_here_fails_at_once(matrix, unserved: dict[str, Any]) -> None:
    matrix.write(base={**unserved, "runtime": "tensorrt"})
    code, results = matrix.run()
    (result,) = results.values()
    assert code == 9
    assert (result["status"], result["stage"], result["attempts"]) == ("failed", "preflight", 1)
    assert re.search(r"needs 1 h100_sxm, and the GPUs of this machine are: ", result["words"])


def test_a_depot_that_cannot_be_reached_is_named_and_the_report_appears(matrix, unserved: dict[str, Any]) -> None:
    (matrix.kit.folder / "file").write_text("no folder")
    matrix.write(base=unserved, depot="file/depot", report={"folder": "report"})
    outcome = matrix.kit.run("nightly", "run")
    assert outcome.code == 9
    assert "file/depot" in outcome.out
    (page,) = (matrix.kit.folder / "report").glob("*/report.html")
    assert H100 in page.read_text()
    assert matrix.kit.run("nightly", "plan").code == 4

    (matrix.kit.folder / "file").unlink()
    matrix.kit.ok("nightly", "run")
    nights = [Path(name).name for name in Depot.open(str(matrix.kit.folder / "file" / "depot")).names("nights")]
    assert (len(nights), nights[0]) == (2, page.parent.name)  # the depot is back, and knows of that night too
    assert not list((matrix.kit.store / "unsent").rglob("*.json"))


def test_one_task_by_its_index_as_job_arrays_run_it(matrix, unserved: dict[str, Any]) -> None:
    matrix.write(base=unserved, matrix={"sku": ["h100_sxm", "l40s"]})
    matrix.kit.ok("nightly", "plan", "--tasks", "tasks.jsonl")
    lines = (matrix.kit.folder / "tasks.jsonl").read_text().splitlines()
    tasks = [CellTask.from_json(json.loads(line)) for line in lines]
    assert [task.sku for task in tasks] == ["h100_sxm", "l40s"]
    line = ("nightly", "cell", "--tasks", "tasks.jsonl", "--night", "20260101T000000Z-0001")
    done = matrix.kit.ok(*line, "--index-env", "JOB_COMPLETION_INDEX", JOB_COMPLETION_INDEX="1")
    assert done.out.startswith(f"{tasks[1].identifier}: built: not measured")
    assert set(matrix.results("20260101T000000Z-0001")) == {tasks[1].identifier}
    assert "skipped" in matrix.kit.ok(*line, "--index", "1").out
    assert matrix.kit.run(*line, "--index", "2").code == 2
    assert matrix.kit.run("nightly", "cell").code == 2


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="a small file system needs root")
def test_a_full_disk_is_named_and_nothing_half_made_stays(matrix, unserved: dict[str, Any], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        matrix.write(base=unserved, depot=str(small / "depot"))
        code, results = matrix.run()
        (result,) = results.values()
        assert (code, result["status"], result["stage"]) == (9, "failed", "publish")
        assert "No space left" in result["words"]
        assert matrix.kit.ok("artifact", "refs", "--depot", str(small / "depot"), "--output", "json").json == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_was_rolled_back_stays_out_until_an_input_changes(matrix, unserved: dict[str, Any]) -> None:
    matrix.write(base=unserved)
    for size in (8, 16):  # two builds, put into service as a comparison would
        matrix.write(base={**unserved, "build": {"max_batch_size": size}})
        matrix.run()
        promote(matrix, H100)
    assert matrix.plan()[H100]["action"] == "skip"
    matrix.kit.ok("nightly", "rollback", H100)
    rolled_back = matrix.plan()[H100]
    assert rolled_back["action"] == "skip"
    assert "rolled back" in rolled_back["why"]
    matrix.write(base={**unserved, "build": {"max_batch_size": 24}})
    assert matrix.plan()[H100]["action"] == "build"


def promote(matrix: Any, identifier: str) -> None:
    """Promote a cell's candidate."""
    depot = matrix.depot
    cell = depot.find(identifier)
    version = depot.read(cell)
    verdict = Verdict(decision="promote", against=None, reasons=("by hand",), night=version.record.night or "")
    depot.move(cell, version, version.record.judged(verdict, at_unix_s=time.time()))
