"""A process as (pid, start time), so that a pid which the system gave to someone else is never taken for ours."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.05
_KILL_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ProcessRef:
    """One process of this boot. `started_ticks` is field 22 of /proc/<pid>/stat."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessRef:
        """Reference to a process that exists (an unreaped child too); ProcessLookupError when there is none."""
        stat = _stat(pid)
        if stat is None:
            raise ProcessLookupError(pid)
        return cls(pid=pid, started_ticks=stat.started_ticks)

    @classmethod
    def current(cls) -> ProcessRef:
        """This very process."""
        return cls.of(os.getpid())

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        _reap(self.pid)
        stat = _stat(self.pid)
        return stat is not None and stat.started_ticks == self.started_ticks and stat.state not in ("Z", "X")

    def terminate(self, *, grace_s: float) -> bool:
        """SIGTERM, wait, SIGKILL if it must, then the children that outlived it; True when it went on its own.

        A reference whose process is gone, or whose pid now belongs to another process, is left alone.
        """
        followers = self._session()
        clean = True
        if self.alive():
            _signal(self.pid, signal.SIGTERM)
            clean = self._gone_within(grace_s)
            if not clean:
                _signal(self.pid, signal.SIGKILL)
                self._gone_within(_KILL_S)
        for follower in followers:
            if follower.alive():
                _signal(follower.pid, signal.SIGKILL)
        return clean

    def _session(self) -> list[ProcessRef]:
        """The other processes of the session that this one leads, such as Triton's stubs.

        The system does not give a pid away while a session bears it, so a session of that number is ours unless the
        pid itself has a new owner.
        """
        leader = _stat(self.pid)
        if leader is not None and leader.started_ticks != self.started_ticks:
            return []
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        stats = {pid: _stat(pid) for pid in pids if pid != self.pid}
        return [
            ProcessRef(pid=pid, started_ticks=stat.started_ticks)
            for pid, stat in stats.items()
            if stat is not None and stat.session == self.pid
        ]

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


@dataclass(frozen=True, kw_only=True)
class _Stat:
    state: str
    session: int
    started_ticks: int  # since boot


def _stat(pid: int) -> _Stat | None:
    """What /proc says of a process; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command name may hold spaces and parentheses; the fields after it do not.
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], session=int(fields[3]), started_ticks=int(fields[19]))


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)
