"""What a cell at work says of itself: which stage it is in, and how long each took. Who supervises it listens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from serving.nightly.record import StageTime
from trtllm_kit.console import StderrTalk


class Steps(StderrTalk):
    """Talk of the build, whose steps are told to `listen`: the stage's name when it begins, its time when it ends."""

    def __init__(self, listen: Callable[[str | StageTime], None]) -> None:
        super().__init__()
        self._listen = listen
        self.done: list[StageTime] = []
        self.stage: str | None = None  # at work, or where it failed

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.stage = name
        self._listen(name)
        started = time.monotonic()
        with super().step(name):
            yield
        self._end(StageTime(name=name, action="run", seconds=round(time.monotonic() - started, 3)))
        self.stage = None

    def skipped(self, name: str) -> None:
        """A stage that had nothing to do."""
        self._end(StageTime(name=name, action="skip", seconds=0.0))

    def _end(self, stage: StageTime) -> None:
        self.done.append(stage)
        self._listen(stage)
