"""When bytes arrived: the kernel's own time of it, so that a busy client does not read its lateness as the server's."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence

ANCILLARY_BYTES = 64
_SO_TIMESTAMPING = 37  # linux/socket.h; `socket` does not name it
_RX_SOFTWARE, _REPORT_SOFTWARE = 1 << 3, 1 << 4  # linux/net_tstamp.h
_CALIBRATE_NS = 250_000_000
_LATEST_NS = 2_000_000_000  # a greater lag is a clock that was set
_time_of = struct.Struct("qq").unpack_from


class ArrivalClock:
    """Turns the kernel's wall-clock stamps into `time.perf_counter_ns`; without a stamp it is the time of asking."""

    __slots__ = ("_calibrated_ns", "_offset_ns", "lag_ns", "reads", "stamped", "worst_lag_ns")

    def __init__(self) -> None:
        self.stamped = False
        self.reads = 0
        self.lag_ns = 0  # between arrival and reading, all reads together
        self.worst_lag_ns = 0
        self._offset_ns = 0
        self._calibrated_ns = 0

    def enable(self, sock: socket.socket) -> None:
        """Ask the kernel to stamp what arrives here. A stamp is that of the last bytes of a read."""
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _REPORT_SOFTWARE)

    def at_ns(self, told: Sequence[tuple[int, int, bytes]]) -> int:
        """Arrival time of what was just read with this ancillary data."""
        now_ns = time.perf_counter_ns()
        if not told:
            return now_ns
        _, kind, stamp = told[0]
        if kind != _SO_TIMESTAMPING:
            return now_ns
        if now_ns - self._calibrated_ns > _CALIBRATE_NS:
            self._calibrate()
        seconds, nanoseconds = _time_of(stamp)
        at_ns: int = seconds * 1_000_000_000 + nanoseconds + self._offset_ns
        lag_ns = now_ns - at_ns
        if not 0 <= lag_ns < _LATEST_NS:
            return now_ns
        self.stamped = True
        self.reads += 1
        self.lag_ns += lag_ns
        if lag_ns > self.worst_lag_ns:
            self.worst_lag_ns = lag_ns
        return at_ns

    def _calibrate(self) -> None:
        """The offset between the two clocks, from the closest of a few pairs of readings."""
        best = None
        for _ in range(5):
            before, wall, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
            if best is None or after - before < best[0]:
                best = (after - before, (before + after) // 2 - wall)
        assert best is not None
        self._offset_ns, self._calibrated_ns = best[1], time.perf_counter_ns()
