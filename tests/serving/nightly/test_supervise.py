"""A cell that hangs, dies or crashes: the supervisor ends it in time and always has a result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.nightly.executors.protocol import CellTask
from serving.nightly.record import CellResult
from serving.nightly.steps import Steps
from serving.nightly.supervise import supervise
from trtllm_kit.errors import QualityError

TASK = CellTask(night="n", identifier="a-bf16-cpu-tp1pp1-cpu", sku="cpu", spec={}, depot="memory://")


def done(task: CellTask, steps: Steps) -> CellResult:
    with steps.step("quantize"):
        print("said on stdout")
    steps.skipped("compile")
    return CellResult(identifier=task.identifier, status="built", words="well", stages=tuple(steps.done))


def hang(task: CellTask, steps: Steps) -> CellResult:
    """In C, deaf to every signal that can be blocked, with a child that would outlive it."""
    with steps.step("compile"):
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(600)  # {task.night}"])
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.read(os.pipe()[0], 1)
    raise AssertionError


def crash(task: CellTask, steps: Steps) -> CellResult:
    with steps.step("package"):
        os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fail(task: CellTask, steps: Steps) -> CellResult:
    with steps.step("evaluate"):
        raise QualityError("too much was lost", expected="less")
    raise AssertionError


def bug(task: CellTask, steps: Steps) -> CellResult:
    raise KeyError("missing")


def test_what_a_cell_says_and_returns_comes_back() -> None:
    result, log = supervise(TASK, done, echo=False)
    assert (result.status, result.words, result.exit_code) == ("built", "well", 0)
    assert [(row.name, row.action) for row in result.stages] == [("quantize", "run"), ("compile", "skip")]
    assert b"said on stdout" in log
    assert result.started_unix_s > 0


def test_a_stage_that_hangs_is_ended_at_its_limit_with_all_that_it_started() -> None:
    night = f"hang-{os.getpid()}"
    limits = {"default": 5.0, "compile": 0.01}
    result, _ = supervise(CellTask(**{**TASK.to_json(), "night": night, "stage_minutes": limits}), hang, echo=False)
    assert (result.status, result.stage, result.exit_code) == ("timeout", "compile", 9)
    assert result.words == "compile took longer than 0.01 minutes and was ended"
    deadline = time.monotonic() + 10
    while night in running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert night not in running()


@pytest.mark.parametrize(
    ("work", "code", "stage", "words"),
    [
        (crash, 137, "package", "its process ended by SIGKILL, as the kernel does when memory runs out"),
        (fail, 6, "evaluate", "too much was lost"),
        (bug, 1, None, "a bug in trtllm-kit: KeyError: 'missing'"),
    ],
)
def test_a_cell_that_ends_badly_has_a_result(work, code: int, stage: str | None, words: str) -> None:
    result, log = supervise(TASK, work, echo=False)
    assert (result.status, result.exit_code, result.stage, result.words) == ("failed", code, stage, words)
    assert (b"Traceback" in log) == (work is bug)


def running() -> str:
    """Command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)
