"""One gRPC call at a time over one HTTP/2 connection (RFC 9113): a tenth of grpc.aio's cost per message.

A stream per connection, as with HTTP/1.1, keeps the arrival time that the kernel gives to each read that of one token.
"""

from __future__ import annotations

from urllib.parse import unquote

from serving.client import hpack
from serving.client.http_speech import BrokenAnswerError, Listener

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65535
_REFILL = 2**29  # bytes taken before the server's window is opened again


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def setting(name: int, value: int) -> bytes:
    """One row of a SETTINGS frame."""
    return name.to_bytes(2, "big") + value.to_bytes(4, "big")


_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    # no dynamic header table · no pushes · whatever the server wants to send in one stream
    + frame(_SETTINGS, 0, 0, setting(1, 0) + setting(2, 0) + setting(4, _LARGEST_WINDOW))
    + frame(_WINDOW, 0, 0, (_LARGEST_WINDOW - _DEFAULT_WINDOW).to_bytes(4, "big"))
)


class GrpcSpeech:
    """Speaks one method of one server. Requests and events are serialized messages."""

    def __init__(self, address: str, method: str, *, tls: bool) -> None:
        self._head = hpack.encode(
            [
                (":method", "POST"),
                (":scheme", "https" if tls else "http"),
                (":path", method),
                (":authority", address),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ]
        )
        self.outgoing = _PREFACE
        self.reusable = True
        self._stream = -1
        self._listener: Listener | None = None
        self._data = b""
        self._message = b""
        self._block = b""
        self._headers_in = hpack.Decoder()
        self._ends = False  # with the header block that is being put together
        self._body = b""  # of the request, what the server's windows have not let out
        self._window = self._start_window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._frame_size = 16384
        self._taken = 0

    def begin(self, content: bytes, listener: Listener) -> None:
        """Open the next stream with one message."""
        self._stream += 2
        self._listener = listener
        self._message = b""
        self._stream_window = self._start_window
        self.outgoing += frame(_HEADERS, _END_HEADERS, self._stream, self._head)
        self._body = b"\0" + len(content).to_bytes(4, "big") + content
        self._send_body()

    def feed(self, data: bytes, at_ns: int) -> bool:
        """Take what arrived at `at_ns`; whether the call is over. BrokenAnswerError when it is no HTTP/2."""
        if self._data:
            data = self._data + data
        at, size, over = 0, len(data), False
        while size - at >= 9:
            end = at + 9 + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & _LARGEST_WINDOW
            over = self._take(kind, flags, stream, data[at + 9 : end], at_ns) or over
            at = end
        self._data = data[at:]
        return over

    def hang_up(self, at_ns: int) -> bool:
        """Never a proper end: a call ends with its trailers."""
        return False

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, at_ns: int) -> bool:
        if kind == _DATA:
            self._receive(flags, stream, payload, at_ns)
            return bool(flags & _END_STREAM) and stream == self._stream and self._fail(2, "no trailers", at_ns)
        if kind in (_HEADERS, _CONTINUATION):
            return self._headers(kind, flags, stream, payload, at_ns)
        if kind == _RST:
            return stream == self._stream and self._fail(1, f"the server reset the stream ({payload.hex()})", at_ns)
        if kind == _SETTINGS:
            if not flags & _ACK:
                self._settings(payload)
        elif kind == _PING:
            if not flags & _ACK:
                self.outgoing += frame(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY:
            self.reusable = False
        elif kind == _WINDOW:
            self._widen(stream, int.from_bytes(payload, "big") & _LARGEST_WINDOW)
        elif stream == 0 and kind > _CONTINUATION and self._stream < 0:
            raise BrokenAnswerError("no HTTP/2 answer")
        return False

    def _receive(self, flags: int, stream: int, payload: bytes, at_ns: int) -> None:
        self._taken += len(payload)
        if self._taken > _REFILL:
            more = self._taken.to_bytes(4, "big")
            self.outgoing += frame(_WINDOW, 0, 0, more)
            if self._listener is not None:
                self.outgoing += frame(_WINDOW, 0, self._stream, more)
            self._taken = 0
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        message = self._message + payload if self._message else payload
        while len(message) >= 5 and (end := 5 + int.from_bytes(message[1:5], "big")) <= len(message):
            if message[0]:
                raise BrokenAnswerError("a compressed message, which was not asked for")
            if self._listener is not None and stream == self._stream:
                self._listener.event(message[5:end], at_ns)
            message = message[end:]
        self._message = message

    def _headers(self, kind: int, flags: int, stream: int, payload: bytes, at_ns: int) -> bool:
        if kind == _HEADERS:
            padding = payload[0] if flags & _PADDED else 0
            start = bool(flags & _PADDED) + 5 * bool(flags & _PRIORITY)
            payload, self._block, self._ends = payload[start : len(payload) - padding], b"", bool(flags & _END_STREAM)
        self._block += payload
        if not flags & _END_HEADERS or stream != self._stream:
            return False
        try:
            headers = self._headers_in.decode(self._block)
        except ValueError as error:
            raise BrokenAnswerError(str(error)) from None
        if headers.get(":status", "200") != "200":
            return self._fail(14, f"HTTP {headers[':status']}", at_ns)
        if not self._ends:
            return False
        code = int(headers.get("grpc-status", "2"))
        if code:
            return self._fail(code, unquote(headers.get("grpc-message", "")), at_ns)
        return self._end(at_ns)

    def _fail(self, code: int, message: str, at_ns: int) -> bool:
        listener = self._over()
        if listener is not None:
            listener.failed(code, message, at_ns)
        return True

    def _end(self, at_ns: int) -> bool:
        listener = self._over()
        if listener is not None:
            listener.end(at_ns)
        return True

    def _over(self) -> Listener | None:
        listener, self._listener = self._listener, None
        self.reusable = self.reusable and not self._body  # a request that was not read to its end
        return listener

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            name, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if name == 4:
                self._stream_window += value - self._start_window
                self._start_window = value
            elif name == 5:
                self._frame_size = value
        self.outgoing += frame(_SETTINGS, _ACK, 0, b"")
        self._send_body()

    def _widen(self, stream: int, more: int) -> None:
        if stream == 0:
            self._window += more
        elif stream == self._stream:
            self._stream_window += more
        self._send_body()

    def _send_body(self) -> None:
        while self._body and (room := min(self._window, self._stream_window, self._frame_size)) > 0:
            part, self._body = self._body[:room], self._body[room:]
            self._window -= len(part)
            self._stream_window -= len(part)
            self.outgoing += frame(_DATA, 0 if self._body else _END_STREAM, self._stream, part)
