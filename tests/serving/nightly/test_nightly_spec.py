"""`nightly.yaml`: every wrong key at once, with its line; where the depot is; a matrix to start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.store import Store
from serving.nightly.matrix import settings_of
from serving.nightly.spec import load
from trtllm_kit.errors import SpecError

ROOT = Path(__file__).resolve().parents[3]
WRONG = """\
matrx: {}
matrix:
  precision: []
overrides:
  - select: "*"
    set: {precision: fp8}
  - selct: "*-cpu-*"
    set: {precision: fp8}
executor:
  kind: local
  job: 3
promotion:
  max_slowdwn: 0.1
limits:
  stage_minutes: {quantize: 0, quantise: 1}
keep_days: many
"""


def test_every_wrong_key_is_named_with_its_line_and_the_nearest_right_one(tmp_path: Path) -> None:
    path = tmp_path / "nightly.yaml"
    path.write_text(WRONG)
    with pytest.raises(SpecError) as refused:
        load(path)
    lines = {line.strip() for line in refused.value.happened.splitlines()}
    assert {
        "nightly.yaml:1: unknown key 'matrx', did you mean 'matrix'?",
        "nightly.yaml:7: unknown key 'overrides.1.selct', did you mean 'select'?",
        "nightly.yaml:7: 'overrides.1.select' is missing",
        "nightly.yaml:11: unknown key 'executor.job', did you mean 'jobs'?",
        "nightly.yaml:13: unknown key 'promotion.max_slowdwn', did you mean 'max_slowdown'?",
    } <= lines
    assert {line.partition(" ")[0] for line in lines} == {f"nightly.yaml:{n}:" for n in (1, 3, 7, 11, 13, 15, 16)}


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "1: 2\n", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "nightly.yaml").write_text(text)
    with pytest.raises(SpecError):
        load(tmp_path / "nightly.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("nightly*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert len(settings_of(load(path))) > 1


def test_groups_that_are_commented_out_are_defaults(tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text("matrix:\n  # precision: [fp8]\noverrides:\nreport:\n")
    spec = load(tmp_path / "nightly.yaml").spec
    assert (spec.matrix, spec.overrides, spec.report.folder) == ({}, [], None)


def test_the_depot_is_that_of_the_file_else_of_the_environment_else_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = tmp_path / "nightly.yaml", Store(tmp_path / "store")
    path.write_text("keep_days: 3.0\n")
    monkeypatch.delenv("TRTLLM_KIT_DEPOT", raising=False)
    assert load(path).depot_url(store) == str(tmp_path / "store" / "depot")
    monkeypatch.setenv("TRTLLM_KIT_DEPOT", "s3://of/environment")
    assert load(path).depot_url(store) == "s3://of/environment"
    path.write_text("depot: beside\n")
    assert load(path).depot_url(store) == str(tmp_path / "beside")


def test_init_writes_a_matrix_that_plan_takes(kit, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    kit.ok("nightly", "init")
    assert kit.run("nightly", "init").code == 2
    kit.ok("nightly", "init", "--force")
    plan = kit.ok("nightly", "plan", "--output", "json").json
    assert plan["counts"] == {"build": 1}
    assert load(kit.folder / "nightly.yaml").spec.limits.stage_minutes == {"default": 240}
