"""Processes that go when the one that started them goes, and none that is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when the thread that started it ends.

    `parent` is that thread's process, so that one which has ended already is noticed; None: whoever it is now.
    """
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_group(leader: int) -> int:
    """Kill what is left of a child's process group and reap the child; its exit code, 128 + signal when killed."""
    for end in (os.killpg, os.kill):  # a child that was just forked leads no group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(leader, signal.SIGKILL)
    _, status = os.waitpid(leader, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
