"""The server's end of gRPC on a bare connection: many calls at once, for a tenth of what grpc.aio costs per message."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import quote

from serving.client import hpack
from serving.client.grpc_speech import frame, setting
from serving.mock.peer import Peer

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LARGEST, _DEFAULT_WINDOW, _FRAME_BYTES = 2**31 - 1, 65535, 16384
_REFILL = 2**29
_HEAD = hpack.encode([(":status", "200"), ("content-type", "application/grpc")])

Serve = Callable[["Call"], Coroutine[Any, Any, None]]


class Call:
    """One call. `messages` gives (bytes, time of arrival); `send` and `finish` never block."""

    def __init__(self, wire: GrpcWire, stream: int, path: str, window: int) -> None:
        self.path = path
        self.window = window
        self.held: deque[tuple[bytes, int]] = deque()  # frames that a window keeps back, and their bytes of data
        self.over = False  # its status is sent or held
        self.task: asyncio.Task[None]
        self.arrived: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue()
        self.stream = stream
        self._wire, self._begun = wire, False

    async def messages(self) -> AsyncIterator[tuple[bytes, int]]:
        """To the end of what the client sends."""
        while (message := await self.arrived.get()) is not None:
            yield message

    def send(self, message: bytes) -> None:
        """One message."""
        self._begin()
        content = b"\0" + len(message).to_bytes(4, "big") + message
        for at in range(0, len(content), _FRAME_BYTES):
            part = content[at : at + _FRAME_BYTES]
            self._wire.put(self, frame(_DATA, 0, self.stream, part), len(part))

    def finish(self, code: int = 0, message: str = "") -> None:
        """The status, which ends the call."""
        self._begin()
        trailers = hpack.encode([("grpc-status", str(code)), ("grpc-message", quote(message))])
        self.over = True
        self._wire.put(self, frame(_HEADERS, _END_HEADERS | _END_STREAM, self.stream, trailers), 0)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._wire.put(self, frame(_HEADERS, _END_HEADERS, self.stream, _HEAD), 0)


class GrpcWire:
    """One connection. Each call is served by a task, which is cancelled when its client leaves."""

    def __init__(self, peer: Peer, serve: Serve) -> None:
        self._peer, self._serve = peer, serve
        self._data, self._block, self._flags, self._message = b"", b"", 0, dict[int, bytes]()
        self._started = False
        self._headers = hpack.Decoder()
        self._calls: dict[int, Call] = {}
        self._window = self._start_window = _DEFAULT_WINDOW
        self._shut: dict[int, Call] = {}  # calls with frames held back, the longest waiting first
        self._taken = 0
        peer.received, peer.gone = self._received, self._gone
        peer.write(frame(_SETTINGS, 0, 0, setting(4, _LARGEST)))
        peer.write(frame(_WINDOW, 0, 0, (_LARGEST - _DEFAULT_WINDOW).to_bytes(4, "big")))

    def put(self, call: Call, content: bytes, size: int) -> None:
        """Send a frame with `size` bytes of data, in its call's order, once the client's windows let it through."""
        call.held.append((content, size))
        if call.stream not in self._shut:
            self._drain(call)

    def _drain(self, call: Call) -> None:
        while call.held:
            content, size = call.held[0]
            if size and size > min(self._window, call.window):
                self._shut[call.stream] = call
                return
            self._window -= size
            call.window -= size
            call.held.popleft()
            self._peer.write(content)
        self._shut.pop(call.stream, None)
        if call.over:
            self._calls.pop(call.stream, None)

    def _release(self) -> None:
        for call in list(self._shut.values()):
            self._drain(call)

    def _gone(self) -> None:
        for call in self._calls.values():
            call.task.cancel()
        self._calls.clear()
        self._shut.clear()

    def _received(self, data: bytes, at_ns: int) -> None:
        data = self._data + data
        if not self._started:
            if len(data) < len(_PREFACE):
                self._data = data
                return
            self._started, data = True, data.removeprefix(_PREFACE)
        at = 0
        while len(data) - at >= 9 and (end := at + 9 + int.from_bytes(data[at : at + 3], "big")) <= len(data):
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & _LARGEST
            self._take(data[at + 3], data[at + 4], stream, data[at + 9 : end], at_ns)
            at = end
        self._data = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, at_ns: int) -> None:
        if kind == _DATA:
            self._take_data(flags, stream, payload, at_ns)
        elif kind in (_HEADERS, _CONTINUATION):
            self._take_headers(kind, flags, stream, payload)
        elif kind == _RST:
            if (call := self._calls.pop(stream, None)) is not None:
                self._shut.pop(stream, None)
                call.task.cancel()
        elif kind == _SETTINGS and not flags & _ACK:
            self._settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._peer.write(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW:
            more = int.from_bytes(payload, "big") & _LARGEST
            if not stream:
                self._window += more
            elif stream in self._calls:
                self._calls[stream].window += more
            self._release()

    def _take_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            padding = payload[0] if flags & _PADDED else 0
            start = bool(flags & _PADDED) + 5 * bool(flags & _PRIORITY)
            payload, self._block, self._flags = payload[start : len(payload) - padding], b"", flags
        self._block += payload
        if flags & _END_HEADERS and stream not in self._calls:
            path = self._headers.decode(self._block).get(":path", "")
            call = self._calls[stream] = Call(self, stream, path, self._start_window)
            call.task = asyncio.get_running_loop().create_task(self._run(call))
            if self._flags & _END_STREAM:
                call.arrived.put_nowait(None)

    async def _run(self, call: Call) -> None:
        try:
            await self._serve(call)
        except asyncio.CancelledError:
            return  # the client has left

    def _take_data(self, flags: int, stream: int, payload: bytes, at_ns: int) -> None:
        self._taken += len(payload)
        if self._taken > _REFILL:
            self._peer.write(frame(_WINDOW, 0, 0, self._taken.to_bytes(4, "big")))
            self._taken = 0
        call = self._calls.get(stream)
        if call is None:
            return
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        message = self._message.pop(stream, b"") + payload
        while len(message) >= 5 and (end := 5 + int.from_bytes(message[1:5], "big")) <= len(message):
            call.arrived.put_nowait((message[5:end], at_ns or time.perf_counter_ns()))
            message = message[end:]
        if message:
            self._message[stream] = message
        if flags & _END_STREAM:
            call.arrived.put_nowait(None)

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            if payload[at : at + 2] == b"\0\4":
                value = int.from_bytes(payload[at + 2 : at + 6], "big")
                for call in self._calls.values():
                    call.window += value - self._start_window
                self._start_window = value
        self._peer.write(frame(_SETTINGS, _ACK, 0, b""))
        self._release()
