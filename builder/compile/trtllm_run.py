"""Runs a build that may take hours: log to a file, progress to the console, and it never outlives us."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError, IncompatibleError
from trtllm_kit.files import disk_errors

_BANNER = re.compile(r"\[TensorRT-LLM\] TensorRT[- ]LLM version: (?P<version>\S+)")
_RANK_DONE = re.compile(r"Engine serialized")
_STEPS: Mapping[re.Pattern[str], str] = {
    re.compile(r"Build TensorRT engine"): "TensorRT chooses kernels; this is the long part",
    re.compile(r"Serializing engine to (?P<path>\S+?)\.{0,3}$"): "an engine is written",
}
_PATIENCE_S = 10
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run(
    argv: Sequence[str],
    *,
    folder: Path,
    log: Path,
    ranks: int,
    version: str,
    stop: Callable[[], None],
    talk: Talk,
) -> int:
    """Run to the end and return the exit code, negative for a signal.

    A banner of another TensorRT-LLM than `version` ends the build at once with IncompatibleError. Whatever interrupts
    us ends the whole process group first; `stop` is called for what lies beyond it.
    """
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            with _start(argv, folder) as process:
                try:
                    _follow(process, file.write, ranks, version, talk)
                except BaseException:
                    _end(process)
                    stop()
                    raise
            return process.returncode


def _start(argv: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    except OSError as error:
        raise HostError(
            f"{argv[0]} cannot be started: {error.strerror}",
            expected="an executable trtllm-build",
            fix="install it again",
        ) from error


def _die_with_parent() -> None:
    """Runs in the child: the kernel ends it when we are killed in a way that leaves us no say."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _follow(
    process: subprocess.Popen[str], write: Callable[[str], object], ranks: int, version: str, talk: Talk
) -> None:
    done = 0
    for line in process.stdout or ():
        write(line)
        banner = _BANNER.search(line)
        if banner and banner["version"] != version:
            raise IncompatibleError(
                f"trtllm-build is of TensorRT-LLM {banner['version']}, the plan is for {version}",
                expected=f"TensorRT-LLM {version}: an engine loads in the very version that built it",
                fix=f"set trtllm_version to {banner['version']}, or build in the container of {version}",
            )
        for pattern, text in _STEPS.items():
            if pattern.search(line):
                talk.say(f"  {text}")
        if _RANK_DONE.search(line):
            done += 1
            talk.progress(done, ranks, "engine ranks")


def _end(process: subprocess.Popen[str]) -> None:
    """End the process group, first politely."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
            return
