"""Stages run once, say why, and notice when their output was touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builder.stages import Stage, changed_inputs, check_intact, digests_below, execute, report
from builder.store import Store
from trtllm_kit.console import Silent, Talk
from trtllm_kit.errors import BuildStepError


def _stage(inputs: dict[str, Any], runs: list[int]) -> Stage:
    def run(out: Path, _work: Path, _talk: Talk) -> None:
        runs.append(1)
        (out / "result").write_text(str(inputs))

    return Stage(name="work", inputs=inputs, run=run)


def test_a_stage_runs_once_for_the_same_inputs(tmp_path: Path) -> None:
    store, runs = Store(tmp_path), list[int]()
    first = execute(_stage({"a": 1}, runs), store, Silent())
    assert execute(_stage({"a": 1}, runs), store, Silent()) == first
    assert execute(_stage({"a": 2}, runs), store, Silent()) != first
    assert len(runs) == 2


def test_a_stage_that_fails_leaves_nothing_and_runs_again(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(out: Path, _work: Path, _talk: Talk) -> None:
        (out / "half").write_text("x")
        raise BuildStepError("no")

    stage = Stage(name="work", inputs={}, run=fail)
    with pytest.raises(BuildStepError):
        execute(stage, store, Silent())
    assert not stage.is_done(store)
    assert list((tmp_path / "stages" / "work").iterdir()) == []


def test_the_report_says_what_changed(tmp_path: Path) -> None:
    store, runs = Store(tmp_path), list[int]()
    assert report(_stage({"scheme": "bf16"}, runs), store, None).reason == "never built for this identifier"
    changed = report(_stage({"scheme": "int8_wo"}, runs), store, {"scheme": "bf16"})
    assert (changed.action, changed.reason) == ("run", "changed: scheme: bf16 → int8_wo")
    execute(_stage({"scheme": "bf16"}, runs), store, Silent())
    assert report(_stage({"scheme": "bf16"}, runs), store, None).action == "skip"


def test_changes_are_found_at_any_depth() -> None:
    old = {"flags": {"a": 1, "gone": True}, "same": 1}
    new = {"flags": {"a": 2}, "same": 1, "fresh": "x"}
    assert changed_inputs(old, new) == ["flags.a: 1 → 2", "flags.gone: True → nothing", "fresh: nothing → x"]


def test_an_output_that_was_touched_is_refused(tmp_path: Path) -> None:
    folder = execute(_stage({}, []), Store(tmp_path), Silent())
    check_intact(folder, digests_below(folder))
    (folder / "result").write_text("other")
    with pytest.raises(BuildStepError, match="result"):
        check_intact(folder, digests_below(folder))
