"""HTTP/1.1 and server-sent events, from bytes as they arrive."""

from __future__ import annotations

import functools
from http import HTTPStatus
from typing import Protocol

from serving.client.likeness import Likeness

_ENDS = b"\n\n\r\n"  # an event, and its chunk
_NO_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Speech(Protocol):
    """One protocol on one connection, one request at a time."""

    outgoing: bytes  # to be sent; whoever sends it empties it
    reusable: bool  # for another request, once this one is over

    def begin(self, content: bytes, listener: Listener) -> None:
        """Say the next request."""

    def feed(self, data: bytes, at_ns: int) -> bool:
        """Take what arrived at `at_ns`; whether the answer is complete. BrokenAnswerError when it is none."""

    def hang_up(self, at_ns: int) -> bool:
        """The server closed the connection; whether that is a proper end of the answer."""


class Listener(Protocol):
    """Who hears what becomes of a request. Times are time.perf_counter_ns()."""

    @property
    def likeness(self) -> Likeness | None:
        """Events that it holds for say nothing new: `again` is enough of them. Every likeness given stays true."""
        return None

    def event(self, data: bytes, at_ns: int) -> None:
        """The data of one server-sent event."""

    def again(self, at_ns: int) -> None:
        """One more event that the likeness holds for."""
        raise AssertionError("no likeness was given")

    def document(self, status: int, body: bytes, at_ns: int) -> None:
        """The whole body of an answer that is no event stream, or whose status is not 200."""

    def end(self, at_ns: int) -> None:
        """The event stream ended as its protocol wants it to."""

    def failed(self, code: int, message: str, at_ns: int) -> None:
        """A gRPC call ended with this status code, which is not 0."""

    def lost(self, detail: str, *, connected: bool) -> None:
        """The connection could not be made, or ended before the answer did."""


class BrokenAnswerError(Exception):
    """The bytes are no HTTP answer."""


class HttpSpeech:
    """Speaks HTTP/1.1 on one connection. Requests are whole, head and body; events are their data."""

    __slots__ = (
        "_alike",
        "_chunked_sse",
        "_data",
        "_left",
        "_likeness",
        "_listener",
        "_rest",
        "_sse",
        "_status",
        "_take",
        "outgoing",
        "reusable",
    )

    def __init__(self) -> None:
        self.outgoing = b""
        self.reusable = False
        self._data = b""  # bytes of the wire that are not yet a whole unit of it
        self._listener: Listener
        self._take = self._nothing_asked
        self._chunked_sse = False
        self._alike: Likeness | None = None

    def begin(self, content: bytes, listener: Listener) -> None:
        """Send the next request."""
        self.outgoing += content
        self._listener = listener
        self._data = b""
        self._rest = b""  # bytes of an event, or of a body, that is not yet whole
        self._status = 0
        self._sse = self._chunked_sse = False
        self._left = 0  # bytes of the body still to come, where its length was given
        self._take = self._head
        self._alike = None  # of chunks, behind their lengths
        self._likeness: Likeness | None = None

    def feed(self, data: bytes, at_ns: int) -> bool:
        """Take what arrived at `at_ns`; whether the answer is complete. BrokenAnswerError when it is none."""
        # A chunk that is an event of one line: what nearly every token arrives as, and all that is done for it.
        if self._chunked_sse and not self._data and not self._rest:
            start = _event_chunk(len(data))
            if data.startswith(start):
                if self._alike is not None and self._alike.holds(data, len(start)):
                    self._listener.again(at_ns)
                    return False
                if data.find(b"\n", len(start)) == len(data) - len(_ENDS) and data.endswith(_ENDS):
                    self._listener.event(data[len(start) : -len(_ENDS)], at_ns)
                    self._learn()
                    return False
        return self._take(self._data + data if self._data else data, at_ns)

    def _learn(self) -> None:
        """Know such chunks by sight, once two events were like each other."""
        likeness = self._listener.likeness
        if likeness is not self._likeness:
            self._likeness, self._alike = likeness, None
        elif likeness is not None and self._alike is None:
            self._alike = likeness.ending_in(_ENDS)

    def hang_up(self, at_ns: int) -> bool:
        """The server closed the connection; whether that is a proper end."""
        if self._take != self._until_close or (self._sse and self._rest.strip()):
            return False
        self._finish(at_ns)
        return True

    def _nothing_asked(self, data: bytes, at_ns: int) -> bool:
        raise BrokenAnswerError(f"bytes that nobody asked for: {data[:60]!r}")

    def _head(self, data: bytes, at_ns: int) -> bool:
        self._data = data
        head, found, rest = data.partition(b"\r\n\r\n")
        if not data.startswith(b"HTTP/"[: len(data)]):
            raise BrokenAnswerError(f"no HTTP answer: {data[:60]!r}")
        if not found:
            return False
        status_line, *fields = head.decode("latin-1").split("\r\n")
        version, _, status = status_line.partition(" ")
        if not status[:3].isdigit():
            raise BrokenAnswerError(f"no HTTP answer: {status_line[:60]!r}")
        self._status = int(status[:3])
        if self._status < HTTPStatus.OK:  # 100 Continue and the like come before the answer
            self._data = b""
            return self._head(rest, at_ns) if rest else False
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        self._sse = self._status == HTTPStatus.OK and "event-stream" in headers.get("content-type", "")
        self.reusable = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._take = self._chunks
            self._chunked_sse = self._sse
        elif "content-length" in headers or self._status in _NO_BODY:
            self._left = int(headers.get("content-length", "0"))
            self._take = self._counted
        else:
            self._take = self._until_close
            self.reusable = False
        self._data = b""
        return self._take(rest, at_ns)

    def _chunks(self, data: bytes, at_ns: int) -> bool:
        at, size = 0, len(data)
        while (line_end := data.find(b"\r\n", at)) >= 0:
            try:
                length = int(data[at:line_end].partition(b";")[0], 16)
            except ValueError:
                raise BrokenAnswerError(f"broken chunk: {data[at : at + 20]!r}") from None
            end = line_end + 2 + length + 2
            if end > size:
                break
            if not length:
                self._finish(at_ns)
                return True
            self._body(data[line_end + 2 : end - 2], at_ns)
            at = end
        self._data = data[at:]
        return False

    def _counted(self, data: bytes, at_ns: int) -> bool:
        self._left -= len(data)
        self._body(data, at_ns)
        if self._left <= 0:
            self._finish(at_ns)
        return self._left <= 0

    def _until_close(self, data: bytes, at_ns: int) -> bool:
        self._body(data, at_ns)
        return False

    def _body(self, data: bytes, at_ns: int) -> None:
        if self._sse:
            self._event_stream(data, at_ns)
        else:
            self._rest += data

    def _event_stream(self, data: bytes, at_ns: int) -> None:
        # The same where several chunks came at once, or none are used.
        if not self._rest and data.startswith(b"data: ") and data.find(b"\n") == len(data) - 2 and data.endswith(b"\n"):
            self._listener.event(data[6:-2], at_ns)
            return
        # A carriage return inside JSON is escaped, so a bare one can only end a line.
        *events, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                self._listener.event(b"\n".join(lines), at_ns)

    def _finish(self, at_ns: int) -> None:
        self._take, self._chunked_sse = self._nothing_asked, False
        if not self._sse:
            self._listener.document(self._status, self._rest, at_ns)
        elif self._rest.strip():
            raise BrokenAnswerError(f"an event without an end: {self._rest[:60]!r}")
        else:
            self._listener.end(at_ns)


@functools.cache
def _event_chunk(size: int) -> bytes:
    """How a chunk of `size` bytes begins, its own length first, if it is one event; as none does if none can be."""
    lengths = (b"%x" % max(size - digits - 4, 0) for digits in range(1, 9))
    fitting = (length for digits, length in enumerate(lengths, start=1) if len(length) == digits)
    return next(fitting, b"\n") + b"\r\ndata: "
