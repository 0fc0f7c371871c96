"""Many sockets in one epoll of their own, which asyncio watches as a single file.

Asyncio spends some five microseconds on each ready socket before anyone has read a byte; this spends one, and needs no
other event loop for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections.abc import Callable

READ = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
WRITE = select.EPOLLOUT
_BATCH = 256
_MANY = 32
_LEAST_NAP_S = 2e-4
_NAPS = 4

Ready = Callable[[int], None]


class Poller:
    """Calls back with the epoll mask of each ready file. Belongs to the running event loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self.nap_s = 0.0
        """Wait so long before taking what is ready, so that one turn takes more; only where arrivals are stamped."""
        self._roused = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._dispatch)

    def watch(self, file: int, mask: int, ready: Ready) -> None:
        """Start watching."""
        self._ready[file] = ready
        self._epoll.register(file, mask)

    def change(self, file: int, mask: int) -> None:
        """Watch for something else."""
        self._epoll.modify(file, mask)

    def forget(self, file: int) -> None:
        """Stop watching; harmless when nobody did."""
        if self._ready.pop(file, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(file)

    def close(self) -> None:
        """Stop watching everything."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._ready.clear()

    def rouse(self) -> None:
        """The event loop has something to do: no further nap before it."""
        self._roused = True

    def _dispatch(self) -> None:
        self._roused = False
        for _ in range(_NAPS):
            naps = self.nap_s > _LEAST_NAP_S and len(self._ready) >= _MANY
            if naps:
                time.sleep(self.nap_s)
            # What is not taken here is still ready, so the loop comes back after its other work.
            for file, mask in self._epoll.poll(0, _BATCH):
                ready = self._ready.get(file)  # one of this batch may have closed another
                if ready is not None:
                    ready(mask)
            if self._roused or not naps:  # a turn of asyncio costs as much as five tokens
                return
