"""What a whole process costs: CPU-seconds, and the peak of the memory that is its own."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_INTERVAL_S = 0.02


@dataclass(frozen=True)
class Cost:
    """Of one process and the children that it waited for. Memory is that of the process itself."""

    cpu_s: float
    wall_s: float
    anon_mb: float  # peak of its anonymous pages: what no file backs
    failed: bool


def measure(command: list[str], *, log: Path, environment: dict[str, str] | None = None) -> Cost:
    """Run `command`; what it prints goes to `log`."""
    started, peak_kb = time.monotonic(), 0
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(environment or {})})
        while True:
            peak_kb = max(peak_kb, _anonymous_kb(process.pid))
            done, status, used = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            time.sleep(_INTERVAL_S)
    process.returncode = status
    return Cost(used.ru_utime + used.ru_stime, time.monotonic() - started, peak_kb / 1000, status != 0)


def _anonymous_kb(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
