"""One cell in a process of its own: its log kept, every stage held to its limit, its end recorded however it came.

The child may hang in C code, be killed for memory, or crash; the supervisor never waits for its goodwill. And when the
supervisor dies, the kernel kills the child.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NoReturn

from serving.nightly.executors.protocol import CellTask
from serving.nightly.process_tree import die_with_parent, end_group
from serving.nightly.record import CellResult, StageTime
from serving.nightly.steps import Steps
from trtllm_kit.errors import BuildStepError, KitError

_READ_BYTES = 1 << 16
_LOG_BYTES = 4 << 20  # of a log that are kept, its beginning and its end
_START = "start"


@dataclass(kw_only=True)
class _Heard:
    """What the child has said so far."""

    stage: str = _START
    since: float = field(default_factory=time.monotonic)
    done: list[StageTime] = field(default_factory=list)
    result: CellResult | None = None
    log: bytearray = field(default_factory=bytearray)
    rest: bytes = b""

    def take(self, data: bytes) -> None:
        """Lines of JSON, the last one perhaps not whole yet."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "stage" in message:
                self.stage, self.since = message["stage"], time.monotonic()
            elif "done" in message:
                self.done.append(StageTime(**message["done"]))
                self.since = time.monotonic()
            else:
                self.result = CellResult.from_json(message["result"])

    def keep_log(self, data: bytes) -> None:
        self.log += data
        if len(self.log) > _LOG_BYTES:
            half = _LOG_BYTES // 4
            self.log[half:-half] = b"\n... left out ...\n"


def supervise(task: CellTask, work: Callable[[CellTask, Steps], CellResult], *, echo: bool) -> tuple[CellResult, bytes]:
    """Run `work` in a child until it ends or a stage is out of time; its result and its log.

    Args:
        echo: pass the log on to stderr as it comes.
    """
    started, began = time.time(), time.monotonic()
    heard, said, log = _Heard(), os.pipe(), os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    supervisor, child = os.getpid(), os.fork()
    if child == 0:
        _be_the_child(task, work, supervisor, said[1], log[1])
    os.close(said[1])
    os.close(log[1])
    try:
        late = _listen(child, said[0], log[0], heard, task.stage_minutes, echo=echo)
    finally:
        exit_code = end_group(child)
        with contextlib.suppress(OSError):  # what was written in the last moment
            heard.keep_log(os.read(log[0], _READ_BYTES))
        os.close(said[0])
        os.close(log[0])
    result = heard.result or _without_result(task, heard, exit_code, late)
    timed = replace(
        result,
        stages=result.stages or tuple(heard.done),
        started_unix_s=round(started, 3),
        seconds=round(time.monotonic() - began, 3),
        node=os.uname().nodename,
    )
    return timed, bytes(heard.log)


def _listen(child: int, said: int, log: int, heard: _Heard, limits: Mapping[str, float], *, echo: bool) -> bool:
    """Until the child has ended (False) or its stage is out of time (True)."""
    ended = os.pidfd_open(child)
    try:
        poll = select.poll()
        for source in (said, log, ended):
            poll.register(source, select.POLLIN)
        while True:
            left_s = 60 * _limit(limits, heard.stage) - (time.monotonic() - heard.since)
            if left_s <= 0:
                return True
            ready = {source for source, _ in poll.poll(1000 * min(left_s, 60.0) + 1)}
            for source in ready & {said, log}:
                data = os.read(source, _READ_BYTES)
                if not data:
                    poll.unregister(source)
                elif source == said:
                    heard.take(data)
                else:
                    heard.keep_log(data)
                    if echo:
                        os.write(2, data)
            if ended in ready and not ready & {said, log}:
                return False
    finally:
        os.close(ended)


def _limit(limits: Mapping[str, float], stage: str) -> float:
    """Minutes that a stage may take."""
    return limits.get(stage, limits.get("default", float("inf")))


def _be_the_child(
    task: CellTask, work: Callable[[CellTask, Steps], CellResult], supervisor: int, said: int, log: int
) -> NoReturn:
    """Never returns into the caller's frames: those belong to the supervisor."""
    code = 1
    try:
        os.setsid()
        die_with_parent(supervisor)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
        result = _run(task, work, Steps(lambda event: _tell(said, _message(event))))
        _tell(said, {"result": result.to_json()})
        code = result.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _run(task: CellTask, work: Callable[[CellTask, Steps], CellResult], steps: Steps) -> CellResult:
    """The result, whatever happens: an expected error as a failed cell, and a bug with its traceback in the log."""
    try:
        return work(task, steps)
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        words, code = error.happened, error.exit_code
    except Exception as error:
        traceback.print_exc()
        words, code = f"a bug in trtllm-kit: {type(error).__name__}: {error}", 1
    return CellResult(
        identifier=task.identifier,
        status="failed",
        words=words.splitlines()[0],
        exit_code=code,
        stage=steps.stage,
        stages=tuple(steps.done),
    )


def _message(event: str | StageTime) -> dict[str, Any]:
    return {"stage": event} if isinstance(event, str) else {"done": asdict(event)}


def _tell(pipe: int, message: Mapping[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(pipe, data) :]


def _without_result(task: CellTask, heard: _Heard, exit_code: int, late: bool) -> CellResult:
    """Of a child that could not say how it ended."""
    if late:
        limit = _limit(task.stage_minutes, heard.stage)
        words = f"{heard.stage} took longer than {limit:g} minutes and was ended"
        code, status = BuildStepError.exit_code, "timeout"
    else:
        number = exit_code - 128
        name = signal.Signals(number).name if 0 < number < signal.NSIG else f"exit code {exit_code}"
        hint = ", as the kernel does when memory runs out" if number == signal.SIGKILL else ""
        words, code, status = f"its process ended by {name}{hint}", exit_code or 1, "failed"
    return CellResult(
        identifier=task.identifier,
        status=status,  # type: ignore[arg-type]
        words=words,
        exit_code=code,
        stage=heard.stage,
    )
