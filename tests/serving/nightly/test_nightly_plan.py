"""`nightly plan`: every cell, what is done with it, and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from profiles import versions
from serving.nightly.night_files import night_path
from serving.nightly.record import NightRecord, new_night

COMMITS = ("0" * 40, "1" * 40)


def test_a_cell_is_built_or_impossible_and_says_why(matrix, unserved: dict[str, Any]) -> None:
    matrix.write(base=unserved, matrix={"precision": ["bf16", "fp8"], "sku": ["h100_sxm", "a100_sxm_80gb"]})
    cells = matrix.plan()
    assert {name: row["action"] for name, row in cells.items()} == {
        "tiny-llama-bf16-h100_sxm-tp1pp1-pytorch": "build",
        "tiny-llama-fp8-h100_sxm-tp1pp1-pytorch": "build",
        "tiny-llama-bf16-a100_sxm_80gb-tp1pp1-pytorch": "build",
        "tiny-llama-fp8-a100_sxm_80gb-tp1pp1-pytorch": "impossible",
    }
    assert "FP8 needs Ada or newer" in cells["tiny-llama-fp8-a100_sxm_80gb-tp1pp1-pytorch"]["why"]
    built = cells["tiny-llama-fp8-h100_sxm-tp1pp1-pytorch"]
    assert built["stages"] == ["quantize", "evaluate", "compile", "render", "package", "compare"]
    assert (built["minutes"], built["usd"]) == (None, None)
    assert built["artifact_bytes"] < cells["tiny-llama-bf16-h100_sxm-tp1pp1-pytorch"]["artifact_bytes"]
    assert matrix.kit.run("nightly", "plan", "--check").code == 10


def test_overrides_select_by_identifier_and_later_ones_win(matrix, unserved: dict[str, Any]) -> None:
    matrix.write(
        base=unserved,
        matrix={"sku": ["h100_sxm", "l40s"]},
        overrides=[
            {"select": "*-{h100_sxm,h200_sxm}-*", "set": {"build.max_batch_size": 8, "serving.max_queue_size": 3}},
            {"select": ["nothing-*", "*-pytorch"], "set": {"build.max_batch_size": 16}},
        ],
    )
    outcome = matrix.kit.ok("nightly", "plan", "--tasks", "tasks.jsonl")
    assert "'nothing-*' matches no cell" in outcome.err
    assert "'*-pytorch'" not in outcome.err
    import json

    tasks = [json.loads(line) for line in (matrix.kit.folder / "tasks.jsonl").read_text().splitlines()]
    specs = {task["sku"]: task["spec"] for task in tasks}
    assert specs["h100_sxm"]["build"]["max_batch_size"] == 16
    assert specs["h100_sxm"]["serving"]["max_queue_size"] == 3
    assert "serving" not in specs["l40s"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("precision", "fp9", "'fp9' is unknown"),
        ("sku", "h100", "unknown SKU 'h100'"),
        ("trtllm_version", "9.9", "9.9"),
        ("name", "My Model", "'My Model-bf16-h100_sxm-tp1pp1-pytorch' is not a build identifier"),
        ("model", None, "'model'"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_and_is_no_hole(
    matrix, unserved: dict[str, Any], key: str, value: Any, words: str
) -> None:
    matrix.write(base=unserved, include=[{}, {key: value}])
    refused = matrix.kit.run("nightly", "run")
    assert refused.code == 3
    assert words in refused.err


def test_two_cells_of_one_identifier_are_refused(matrix, unserved: dict[str, Any]) -> None:
    matrix.write(base=unserved, matrix={"build.max_batch_size": [8, 16]})
    refused = matrix.kit.run("nightly", "plan")
    assert refused.code == 3
    assert "two cells are tiny-llama-bf16-h100_sxm-tp1pp1-pytorch" in refused.err
    matrix.write(base=unserved, include=[{"name": "a"}, {"name": "b", "build.max_batch_size": 16}])
    assert set(matrix.plan()) == {f"{name}-bf16-h100_sxm-tp1pp1-pytorch" for name in "ab"}


def test_excluded_and_other_cells_are_not_planned(matrix, unserved: dict[str, Any]) -> None:
    matrix.write(base=unserved, matrix={"sku": ["h100_sxm", "l40s", "l4"]}, exclude=["*-{l40s,l40}-*", "*-b200_sxm-*"])
    assert set(matrix.plan()) == {f"tiny-llama-bf16-{sku}-tp1pp1-pytorch" for sku in ("h100_sxm", "l4")}
    assert set(matrix.plan("--only", "*-l4-*")) == {"tiny-llama-bf16-l4-tp1pp1-pytorch"}
    nothing = matrix.kit.run("nightly", "plan", "--only", "*-l44-*")
    assert nothing.code == 3
    assert "tiny-llama-bf16-l4-tp1pp1-pytorch" in nothing.err


def test_a_checkpoint_that_is_gone_fails_its_own_cells_alone(matrix, unserved: dict[str, Any], tmp_path: Path) -> None:
    matrix.write(base=unserved, include=[{}, {"model": str(tmp_path / "gone"), "name": "gone"}])
    cells = matrix.plan()
    assert cells["tiny-llama-bf16-h100_sxm-tp1pp1-pytorch"]["action"] == "build"
    assert cells["gone-bf16-h100_sxm-tp1pp1-pytorch"]["action"] == "impossible"
    assert "there is no folder" in cells["gone-bf16-h100_sxm-tp1pp1-pytorch"]["why"]


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with two commits of `acme/tiny`, the second with another chat template; main is the first."""
    repository = tmp_path / "home" / "hub" / "models--acme--tiny"
    for commit in COMMITS:
        shutil.copytree(tiny_llama, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMITS[0])
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return repository


def test_a_branch_that_moves_without_a_change_in_the_files_builds_nothing(matrix, unserved, hub: Path) -> None:
    name = "tiny-bf16-h100_sxm-tp1pp1-pytorch"
    matrix.write(base={**unserved, "model": "acme/tiny@main"})
    assert matrix.run()[1][name]["decision"] == "not_measured"
    (candidate,) = (row.candidate for row in matrix.refs().values())
    assert candidate.inputs["package"]["spec"]["model"] == f"acme/tiny@{COMMITS[0]}"
    (hub / "refs" / "main").write_text(COMMITS[1])
    moved = matrix.plan()[name]
    assert moved["action"] == "skip", moved
    assert "no file that a build reads changed" in moved["why"]


def test_a_branch_that_moves_to_other_files_says_which_input_changed(matrix, unserved, hub: Path) -> None:
    name = "tiny-bf16-h100_sxm-tp1pp1-pytorch"
    matrix.write(base={**unserved, "model": "acme/tiny@main"})
    matrix.run()
    config = hub / "snapshots" / COMMITS[1] / "generation_config.json"
    config.write_text(config.read_text().replace("{", '{"temperature": 0.5,', 1))
    (hub / "refs" / "main").write_text(COMMITS[1])
    moved = matrix.plan()[name]
    assert moved["action"] == "build"
    assert [change.partition(":")[0] for change in moved["changes"]] == ["quantize.checkpoint", "package.spec.model"]
    shutil.rmtree(hub / "snapshots" / COMMITS[1])
    gone = matrix.plan()[name]
    assert gone["action"] == "impossible"
    assert "acme/tiny" in gone["why"]


def test_another_image_behind_the_same_tag_builds_the_cells_for_gpus(matrix, unserved: dict[str, Any]) -> None:
    pinned = {"image_digest": f"sha256:{'a' * 64}", "driver_branch": "575"}
    matrix.write(base={**unserved, "pins": pinned})
    matrix.kit.ok("nightly", "run")
    (same,) = matrix.plan().values()
    assert same["action"] == "skip"
    matrix.write(base={**unserved, "pins": {**pinned, "image_digest": f"sha256:{'b' * 64}"}})
    (changed,) = matrix.plan().values()
    assert changed["action"] == "build"
    assert any(change.startswith("compile.image_digest: sha256:aaa") for change in changed["changes"])


def test_without_network_an_image_is_what_the_last_night_knew(matrix, unserved: dict[str, Any]) -> None:
    matrix.write(base=unserved)
    image, digest = versions.find("auto").triton_image, f"sha256:{'c' * 64}"
    night = NightRecord(night=new_night(), started_unix_s=0.0, upstream={f"image {image}": digest})
    matrix.depot.write_text(night_path(night.night), json.dumps(night.to_json()))
    matrix.kit.ok("nightly", "plan", "--tasks", "tasks.jsonl")
    (task,) = (matrix.kit.folder / "tasks.jsonl").read_text().splitlines()
    assert json.loads(task)["spec"]["pins"] == {"image_digest": digest}
