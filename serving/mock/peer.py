"""A listening socket and its connections, with the kernel's own time of each arrival.

The ledger's times are the truth that others are measured against, so a mock that is late to read must not note its
lateness as the client's.
"""

from __future__ import annotations

import contextlib
import socket
import weakref
from collections.abc import Callable

from serving.client.arrival import ANCILLARY_BYTES, ArrivalClock
from serving.client.poller import READ, WRITE, Poller

_BACKLOG = 4096
_RECV_BYTES = 1 << 16

Received = Callable[[bytes, int], None]


class Peer:
    """One accepted connection. `received` hears (bytes, time.perf_counter_ns() of arrival), `gone` its end."""

    def __init__(self, sock: socket.socket, poller: Poller, clock: ArrivalClock) -> None:
        self.received: Received
        self.gone: Callable[[], None]
        self.closed = False
        self._sock, self._poller, self._clock = sock, poller, clock
        self._unsent = b""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poller.watch(sock.fileno(), READ, self._ready)

    def write(self, data: bytes) -> None:
        """Send, now or when there is room."""
        if self.closed:
            return
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._poller.change(self._sock.fileno(), READ | WRITE)

    def close(self, *, abort: bool = False) -> None:
        """Close; an abort resets the connection, as a server that dies does."""
        if self.closed:
            return
        self.closed = True
        if abort:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._poller.forget(self._sock.fileno())
        self._sock.close()
        self.gone()

    def _ready(self, mask: int) -> None:
        if mask & WRITE and self._unsent:
            waiting, self._unsent = self._unsent, b""
            self._poller.change(self._sock.fileno(), READ)
            self.write(waiting)
        if mask & READ and not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            data, told, _, _ = self._sock.recvmsg(_RECV_BYTES, ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data, told = b"", []
        if data:
            self.received(data, self._clock.at_ns(told))
        else:
            self.close()


class Listening:
    """Accepts until closed. OSError when the address cannot be bound."""

    def __init__(self, host: str, port: int, meet: Callable[[Peer], None]) -> None:
        self._sock = socket.create_server((host, port), backlog=_BACKLOG)
        self._sock.setblocking(False)
        self._poller, self._clock, self._meet = Poller(), ArrivalClock(), meet
        self._clock.enable(self._sock)  # accepted sockets inherit it, before their first byte
        self._peers: weakref.WeakSet[Peer] = weakref.WeakSet()
        self.port = int(self._sock.getsockname()[1])
        self._poller.watch(self._sock.fileno(), READ, self._accept)

    def close(self) -> None:
        """Stop accepting and drop every connection."""
        for peer in list(self._peers):
            peer.close()
        self._poller.close()
        self._sock.close()

    def _accept(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._sock.accept()
                peer = Peer(sock, self._poller, self._clock)
                self._peers.add(peer)
                self._meet(peer)
