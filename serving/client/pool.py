"""Sockets to one server, kept alive and reused, with callbacks instead of a coroutine's turn per token."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from serving.client.arrival import ANCILLARY_BYTES, ArrivalClock
from serving.client.http_speech import BrokenAnswerError, Listener, Speech
from serving.client.poller import READ, WRITE, Poller
from serving.client.trust import words_of

_RECV_BYTES = 1 << 16
_HANDSHAKE_S = 30.0
_STALE_NS = 100_000_000
"""A kept connection that was closed meanwhile shows it this soon; what is lost later was lost by the server at work."""

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Pool:
    """Connections to one server, as many as there are requests at once. Belongs to the running event loop."""

    def __init__(self, address: str, speech: Callable[[], Speech], tls: ssl.SSLContext | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self.speech = speech
        self.poller = Poller()
        self.clock = ArrivalClock()
        self._host, self._port = host.strip("[]"), int(port)
        self.secured = tls is not None
        self._tls = tls
        self._peer: tuple[Any, ...] | None = None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()

    def send(self, content: bytes, listener: Listener) -> Connection:
        """Send a request; whatever follows is told to `listener`, a failure to connect included."""
        connection = self._idle.pop() if self._idle else self._new()
        connection.begin(content, listener)
        return connection

    async def warm(self, connections: int) -> None:
        """Connect ahead, so that the first requests do not wait for it; what cannot connect is left to them."""
        fresh = [self._new() for _ in range(connections)]
        await asyncio.wait([connection.dialling for connection in fresh])
        self._idle += [connection for connection in fresh if connection in self._open]

    def close(self) -> None:
        """Close all connections; their listeners hear nothing more."""
        for connection in list(self._open):
            connection.close()
        self.poller.close()

    def keep(self, connection: Connection) -> None:
        """The connection is free for the next request."""
        self.poller.rouse()
        self._idle.append(connection)

    def drop(self, connection: Connection) -> None:
        """The connection is closed."""
        self.poller.rouse()
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def send_afresh(self, content: bytes, listener: Listener) -> Connection:
        """As `send`, on a new connection: a kept one turned out to be closed."""
        connection = self._new()
        connection.begin(content, listener)
        return connection

    async def dial(self) -> socket.socket:
        """A connected socket that does not block; OSError as the system gives it."""
        loop = asyncio.get_running_loop()
        if self._peer is None:
            self._peer = (await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))[0]
        family, kind, protocol, _, address = self._peer
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
            if self._tls is None:
                self.clock.enable(sock)
                return sock
            sock.settimeout(_HANDSHAKE_S)
            wrap = self._tls.wrap_socket
            secured = await loop.run_in_executor(None, lambda: wrap(sock, server_hostname=self._host))
            secured.setblocking(False)
            return secured
        except BaseException:
            sock.close()
            raise

    def _new(self) -> Connection:
        connection = Connection(self)
        self._open.add(connection)
        return connection


class Connection:
    """One socket; one request at a time."""

    __slots__ = (
        "_again",
        "_begun_ns",
        "_clock",
        "_listener",
        "_pool",
        "_secured",
        "_sock",
        "_speech",
        "_unsent",
        "_waiting",
        "dialling",
        "heir",
    )

    def __init__(self, pool: Pool) -> None:
        self.heir: Connection | None = None  # carries the request on, where this one was found closed
        self._pool = pool
        self._sock: socket.socket | None = None
        self._listener: Listener | None = None
        self._speech = pool.speech()
        self._clock = pool.clock
        self._secured = pool.secured
        self._unsent = b""
        self._waiting = False  # for room in the kernel's buffer
        self._again: bytes | None = None  # the request, as long as it may be sent once more on a fresh connection
        self._begun_ns = 0
        self.dialling = asyncio.get_running_loop().create_task(self._dial())

    def begin(self, content: bytes, listener: Listener) -> None:
        """Send the next request, now or when the connection has been made."""
        self._listener = listener
        self._speech.begin(content, listener)
        if self._sock is not None:
            self._again, self._begun_ns = content, time.perf_counter_ns()
            self._write()

    def close(self) -> None:
        """Drop the connection, which tells the server that nobody listens any more; the listener hears nothing."""
        if self.heir is not None:
            self.heir.close()
        self._listener = None
        self.dialling.cancel()
        if self._sock is not None:
            self._pool.poller.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self._pool.drop(self)

    async def _dial(self) -> None:
        try:
            self._sock = await self._pool.dial()
        except OSError as error:
            self._lost(words_of(error), connected=False)
            return
        self._pool.poller.watch(self._sock.fileno(), READ, self._ready)
        self._write()

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._write()
        if not mask & READ:
            return
        while (sock := self._sock) is not None:
            try:
                if self._secured:
                    data, at_ns = sock.recv(_RECV_BYTES), time.perf_counter_ns()
                else:
                    data, told, _, _ = sock.recvmsg(_RECV_BYTES, ANCILLARY_BYTES)
                    at_ns = self._clock.at_ns(told)
            except _WOULD_BLOCK:
                return
            except OSError as error:
                self._lost(error.strerror or str(error))
                return
            if not data:
                self._hung_up(at_ns)
                return
            self._again = None
            try:
                over = self._speech.feed(data, at_ns)
            except BrokenAnswerError as error:
                self._lost(str(error))
                return
            if self._speech.outgoing:
                self._write()
            if over:
                self._finish()
            # A short read has emptied the kernel's buffer; only TLS may hold more that epoll does not know of.
            if len(data) < _RECV_BYTES and not self._secured:
                return

    def _write(self) -> None:
        sock, waited = self._sock, False
        self._unsent, self._speech.outgoing = self._unsent + self._speech.outgoing, b""
        while self._unsent and sock is not None:
            try:
                self._unsent = self._unsent[sock.send(self._unsent) :]
            except _WOULD_BLOCK:
                waited = True
                break
            except OSError as error:
                self._lost(error.strerror or str(error))
                return
        if sock is not None and waited != self._waiting:
            self._waiting = waited
            self._pool.poller.change(sock.fileno(), READ | WRITE if waited else READ)

    def _finish(self) -> None:
        if self._listener is not None:
            self._listener = None
            if self._speech.reusable:
                self._pool.keep(self)
            else:
                self.close()

    def _hung_up(self, at_ns: int) -> None:
        with contextlib.suppress(BrokenAnswerError):
            if self._listener is not None and self._speech.hang_up(at_ns):
                self.close()
                return
        self._lost("the server closed the connection")

    def _lost(self, detail: str, *, connected: bool = True) -> None:
        listener, again, self._again = self._listener, self._again, None
        self.close()
        if listener is None:
            return
        if again is not None and time.perf_counter_ns() - self._begun_ns < _STALE_NS:
            self.heir = self._pool.send_afresh(again, listener)
        else:
            listener.lost(detail, connected=connected)
