"""Processes of this machine: refused before they start, tried again by their exit code, each with its own words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from serving.nightly.executors.local import LocalExecutor, available_bytes
from serving.nightly.executors.protocol import CellTask
from serving.nightly.executors.settings import LocalSettings
from serving.nightly.executors.table import executor_of, offers_of
from trtllm_kit.console import Silent


def task(tmp_path: Path, name: str, **changes: Any) -> CellTask:
    fields: dict[str, Any] = {
        "night": "20260101T000000Z-0000",
        "identifier": f"{name}-bf16-cpu-tp1pp1-cpu",
        "sku": "cpu",
        "spec": {"model": str(tmp_path / "nowhere"), "name": name},
        "depot": str(tmp_path / "depot"),
        "store": str(tmp_path / "store"),
        **changes,
    }
    return CellTask(**fields)


@pytest.fixture
def executor() -> LocalExecutor:
    return LocalExecutor(LocalSettings(jobs=2))


def test_what_cannot_be_built_is_tried_once_and_a_broken_host_twice(executor: LocalExecutor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    tasks = [task(tmp_path, "gone"), task(tmp_path, "unreachable", depot=str(tmp_path / "file" / "depot"))]
    before = os.sched_getaffinity(0)
    ends = {row.task.identifier.partition("-")[0]: row for row in executor.run(tasks, Silent())}
    assert (ends["gone"].exit_code, ends["gone"].attempts) == (3, 1)
    assert "there is no folder" in ends["gone"].words
    assert (ends["unreachable"].exit_code, ends["unreachable"].attempts) == (4, 2)
    assert os.sched_getaffinity(0) == before


def test_more_gpus_than_there_are_are_refused_before_anything_runs(executor: LocalExecutor, tmp_path: Path) -> None:
    fits, refused = task(tmp_path, "fits"), task(tmp_path, "refused", sku="gb300", gpus=64)
    words = executor.preflight([fits, refused])
    assert list(words) == [refused.identifier]
    assert words[refused.identifier].startswith("its build needs 64 gb300, and the GPUs of this machine are: ")


def test_a_task_that_needs_more_memory_than_there_is_runs_alone(tmp_path: Path) -> None:
    executor = LocalExecutor(LocalSettings(jobs=2, memory_gb=0.001))
    tasks = [task(tmp_path, name, memory_bytes=available_bytes()) for name in ("one", "two")]
    assert [row.exit_code for row in executor.run(tasks, Silent())] == [3, 3]


def test_closing_the_run_ends_its_processes(executor: LocalExecutor, tmp_path: Path) -> None:
    endless = task(tmp_path, "endless", stage_minutes={"default": 60.0})
    run = executor.run([task(tmp_path, "first"), endless, task(tmp_path, "third")], Silent())
    assert next(run).exit_code == 3
    run.close()  # type: ignore[attr-defined]
    assert list(run) == []


def test_the_table_makes_the_executor_that_the_matrix_names() -> None:
    assert executor_of(LocalSettings()).name == "local"
    assert offers_of(LocalSettings())("cpu")
    assert not offers_of(LocalSettings())("no_such_sku")
