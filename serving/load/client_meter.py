"""How busy the generator itself was: a client at its limit measures itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from serving.client.arrival import ArrivalClock
from serving.load.histogram import Histogram

_BEAT_S = 0.05
BUSY_SHARE, LATE_MS, STARVED_SHARE = 0.85, 10.0, 0.25


@dataclass(frozen=True, kw_only=True)
class ClientUse:
    """Shares are of one CPU, over the whole run. Times in milliseconds."""

    cpu_s: float
    cpu_share: float
    waited_share: float | None  # of the time it was ready to run and another process had the CPU; Linux only
    loop_lag_p50_ms: float  # how late the event loop's own timers were
    loop_lag_p99_ms: float
    loop_lag_max_ms: float
    kernel_stamped: bool  # arrivals are the kernel's times, so reading late does not make them late
    read_lag_mean_ms: float | None  # from arrival to reading
    read_lag_max_ms: float | None
    send_late_p99_ms: float | None  # from due to sent, open loop
    send_late_max_ms: float | None

    def warnings(self) -> list[str]:
        """Why these figures may be the client's and not the server's; empty when it was not the limit."""
        found = []
        if self.cpu_share > BUSY_SHARE:
            found.append(f"the client used {self.cpu_share:.0%} of a CPU: it was the limit; use a second one")
        if self.send_late_p99_ms is not None and self.send_late_p99_ms > LATE_MS:
            found.append(
                f"requests were sent up to {self.send_late_p99_ms:.0f} ms (p99) late: the client was the limit"
            )
        if not self.kernel_stamped and self.loop_lag_p99_ms > LATE_MS:
            found.append(
                f"the client read answers up to {self.loop_lag_p99_ms:.0f} ms (p99) late: latencies are too high"
            )
        if self.waited_share is not None and self.waited_share > STARVED_SHARE:
            found.append(f"the client waited {self.waited_share:.0%} of the time for a CPU: the machine is shared")
        return found


class ClientMeter:
    """Measures from `start` to `stop`, in the event loop that it measures."""

    def __init__(self, clock: ArrivalClock) -> None:
        self._clock = clock
        self._lag = Histogram()
        self._late = Histogram()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._cpu, self._wall, self._waited = time.process_time(), time.perf_counter(), _waited_s()
        self._due = self._loop_time()
        self._beat()

    def sent(self, late_ns: int) -> None:
        """A request went out so long after it was due."""
        self._late.add(max(late_ns, 1))

    def stop(self, *, open_loop: bool) -> ClientUse:
        """End and tell."""
        if self._timer is not None:
            self._timer.cancel()
        wall, cpu, waited = time.perf_counter() - self._wall, time.process_time() - self._cpu, _waited_s()
        stamped, clock, late = self._clock.stamped, self._clock, open_loop and self._late.count
        return ClientUse(
            cpu_s=cpu,
            cpu_share=cpu / wall if wall else 0.0,
            waited_share=None if waited is None or self._waited is None else (waited - self._waited) / wall,
            loop_lag_p50_ms=self._lag.quantile_ns(0.5) / 1e6,
            loop_lag_p99_ms=self._lag.quantile_ns(0.99) / 1e6,
            loop_lag_max_ms=self._lag.max_ns / 1e6,
            kernel_stamped=stamped,
            read_lag_mean_ms=clock.lag_ns / clock.reads / 1e6 if stamped else None,
            read_lag_max_ms=clock.worst_lag_ns / 1e6 if stamped else None,
            send_late_p99_ms=self._late.quantile_ns(0.99) / 1e6 if late else None,
            send_late_max_ms=self._late.max_ns / 1e6 if late else None,
        )

    def _beat(self) -> None:
        now = self._loop_time()
        self._lag.add(max(now - self._due, 0.0) * 1e9 + 1)
        self._due = now + _BEAT_S
        self._timer = asyncio.get_running_loop().call_at(self._due, self._beat)

    def _loop_time(self) -> float:
        return asyncio.get_running_loop().time()


def _waited_s() -> float | None:
    """Seconds that this thread was runnable without running (/proc/thread-self/schedstat, second field, ns)."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
