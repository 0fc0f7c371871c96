"""The default executor: processes of this machine, as many at once as cores, memory and GPUs allow.

Each process has cores of its own for as long as it runs: libraries size their thread pools by them, so that cells at
once do not oversubscribe the machine, and a comparison does not share a core with a neighbour's build.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.nightly.executors.cell_process import COMMAND, exit_code, last_words
from serving.nightly.executors.protocol import CellTask, Finish
from serving.nightly.executors.settings import LocalSettings
from serving.nightly.here import available_bytes, gpu_indices
from serving.nightly.retry import again
from trtllm_kit.console import Talk

_POLL_S = 0.02
_GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class _Running:
    """A cell at work, and what it has taken."""

    task: CellTask
    attempt: int
    process: subprocess.Popen[bytes]
    cores: frozenset[int]
    gpus: tuple[int, ...]


class LocalExecutor:
    """Runs tasks in the order given, a later one first where it fits and an earlier one does not."""

    name = "local"

    def __init__(self, settings: LocalSettings) -> None:
        self._cores = frozenset(os.sched_getaffinity(0))
        self._jobs = len(self._cores) if settings.jobs == "auto" else settings.jobs
        self._memory_bytes = available_bytes() if settings.memory_gb == "auto" else int(settings.memory_gb * 1e9)
        self._gpus = gpu_indices()
        self._node = os.uname().nodename
        self._running: list[_Running] = []

    def preflight(self, tasks: Sequence[CellTask]) -> Mapping[str, str]:
        """Tasks that need more GPUs of their SKU than there are."""
        counts = {sku: len(indices) for sku, indices in self._gpus.items()}
        here = ", ".join(f"{count} {sku}" for sku, count in counts.items()) or "none"
        return {
            task.identifier: f"its build needs {task.gpus} {task.sku}, and the GPUs of this machine are: {here}"
            for task in tasks
            if task.gpus > counts.get(task.sku, 0)
        }

    def run(self, tasks: Sequence[CellTask], talk: Talk) -> Iterator[Finish]:
        """Ends as they come. Closing the iterator ends what runs."""
        waiting = [(task, 1) for task in tasks]
        with tempfile.TemporaryDirectory(prefix="trtllm-kit-") as folder:
            try:
                while waiting or self._running:
                    self._start(waiting, folder, talk)
                    for ended in self._ended():
                        finish = self._finish(ended, folder)
                        if again(finish.exit_code, finish.attempts):
                            talk.warn(f"{finish.task.identifier}: {finish.words}; trying again")
                            waiting.insert(0, (ended.task, ended.attempt + 1))
                        else:
                            yield finish
                    time.sleep(_POLL_S)
            finally:
                self._stop()

    def _start(self, waiting: list[tuple[CellTask, int]], folder: str, talk: Talk) -> None:
        for task, attempt in list(waiting):
            slots = min(self._jobs - len(self._running), len(waiting))
            if slots <= 0:
                return
            if self._fits(task):
                waiting.remove((task, attempt))
                self._running.append(self._spawn(task, attempt, self._share(slots), folder))
                talk.say(f"{task.identifier}: started, {len(self._running)} at work")

    def _fits(self, task: CellTask) -> bool:
        """Whether memory and GPUs are free; what needs more memory than there is runs alone."""
        taken = sum(row.task.memory_bytes for row in self._running)
        enough = taken + task.memory_bytes <= self._memory_bytes or not self._running
        return enough and len(self._free_gpus(task.sku)) >= task.gpus

    def _free_gpus(self, sku: str) -> list[int]:
        taken = {index for row in self._running for index in row.gpus}
        return [index for index in self._gpus.get(sku, ()) if index not in taken]

    def _share(self, slots: int) -> frozenset[int]:
        """Cores of the next of `slots` processes that share what is free; all cores where jobs are more than cores."""
        free = sorted(self._cores.difference(*(row.cores for row in self._running)))
        return frozenset(free[: len(free) // slots]) or self._cores

    def _spawn(self, task: CellTask, attempt: int, cores: frozenset[int], folder: str) -> _Running:
        gpus = tuple(self._free_gpus(task.sku)[: task.gpus])
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {}
        with _errors(folder, task).open("wb") as errors, _on(cores):
            process = subprocess.Popen(
                [*COMMAND, "--tied", str(os.getpid()), "--attempt", str(attempt)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **visible},
                start_new_session=True,  # an interrupt at the terminal is for the night, which then ends its cells
            )
        assert process.stdin is not None
        with process.stdin, contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task.to_json()).encode())
        return _Running(task=task, attempt=attempt, process=process, cores=cores, gpus=gpus)

    def _ended(self) -> list[_Running]:
        ended = [row for row in self._running if row.process.poll() is not None]
        self._running = [row for row in self._running if row not in ended]
        return ended

    def _finish(self, ended: _Running, folder: str) -> Finish:
        code = ended.process.returncode
        said = _errors(folder, ended.task).read_text(encoding="utf-8", errors="replace")
        words = "" if code == 0 else last_words(said, code) or f"its process ended with {code}"
        return Finish(task=ended.task, exit_code=exit_code(code), node=self._node, attempts=ended.attempt, words=words)

    def _stop(self) -> None:
        for row in self._running:
            row.process.kill()  # the kernel kills what it supervises with it
        for row in self._running:
            row.process.wait(_GRACE_S)
        self._running = []


def _errors(folder: str, task: CellTask) -> Path:
    """What a cell's process says on stderr: its log, and what it says before it can keep one."""
    return Path(folder) / f"{task.identifier}.err"


@contextlib.contextmanager
def _on(cores: frozenset[int]) -> Iterator[None]:
    """Processes started inside inherit these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
