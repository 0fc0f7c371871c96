"""One request in the air: it hears its answer from the wire, notes when how many tokens came, and ends once."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from http import HTTPStatus

from serving.client.errors import RequestError, cut_off, server_said, unreachable
from serving.client.likeness import Likeness
from serving.client.readers import Reader
from serving.client.request import Request
from serving.client.stream_client import refusal

_UNAVAILABLE = 14  # grpc.StatusCode
_NEVER = 1 << 62

Ended = Callable[["Flight"], None]


def _nothing() -> None: ...


class Flight:
    """A Listener of serving.client.http_speech. Times are time.perf_counter_ns().

    Whoever sends it sets `address`, `scheduled_ns`, `sent_ns`, `abort` (drop the connection) and, to cancel it on the
    way, `cancel_at` (tokens) and `cancel`.
    """

    __slots__ = (
        "_ended",
        "_reader",
        "abort",
        "address",
        "arrivals_ns",
        "cancel",
        "cancel_at",
        "cancelled",
        "counts",
        "ended_ns",
        "error",
        "keep_text",
        "number",
        "request",
        "scheduled_ns",
        "sent_ns",
        "text",
        "tokens",
        "unfinished",
    )

    def __init__(
        self, request: Request, reader: Reader, ended: Ended, *, number: int = 0, keep_text: bool = False
    ) -> None:
        self.request = request
        self.number = number
        self.scheduled_ns = 0
        self.sent_ns = 0
        self.ended_ns = 0
        self.arrivals_ns = array("q")  # of responses that bore tokens
        self.counts = array("i")  # tokens of each; none while every one bore one
        self.tokens = 0
        self.keep_text = keep_text
        self.text: list[str] = []
        self.error: RequestError | None = None
        self.address = ""
        self.abort: Callable[[], None] = _nothing
        self.cancel: Callable[[], None] = _nothing
        self.cancel_at = _NEVER
        self.cancelled = False  # a stop was sent; the answer is still read to its end
        self.unfinished = False  # given up because the run was over
        self._reader = reader
        self._ended: Ended | None = ended

    @property
    def input_tokens(self) -> int | None:
        """The server's count of the prompt."""
        return self._reader.input_tokens

    @property
    def counted_by(self) -> str:
        """Who counted the output tokens."""
        return self._reader.counted_by

    @property
    def output_tokens(self) -> int:
        """The server's count of the whole answer where it gave one, else the sum of its responses'."""
        return self.tokens if self._reader.total is None else self._reader.total

    @property
    def likeness(self) -> Likeness | None:
        """Of responses with one token; none where their text is wanted."""
        return None if self.keep_text else self._reader.likeness

    def again(self, at_ns: int, tokens: int = 1) -> None:
        """A response with so many tokens."""
        if self._ended is None:
            return
        if tokens != 1 or self.counts:
            self.counts.extend([1] * (len(self.arrivals_ns) - len(self.counts)) + [tokens])
        self.arrivals_ns.append(at_ns)
        self.tokens += tokens
        if self.tokens >= self.cancel_at:
            self.cancel_at = _NEVER
            self.cancel()

    def event(self, data: bytes, at_ns: int) -> None:
        if self._ended is None:
            return
        try:
            tokens = self._read(data) if self.keep_text else self._reader.count(data, self.tokens)
        except RequestError as error:
            self.abort()
            self.finish(at_ns, error)
            return
        if tokens:
            self.again(at_ns, tokens)

    def document(self, status: int, body: bytes, at_ns: int) -> None:
        if status == HTTPStatus.OK and not self.request.stream:
            self.event(body, at_ns)
            self.finish(at_ns)
        else:
            self.finish(at_ns, refusal(status, body))

    def end(self, at_ns: int) -> None:
        self.finish(at_ns, None if self._reader.ended else cut_off(self.tokens))

    def failed(self, code: int, message: str, at_ns: int) -> None:
        gone = code == _UNAVAILABLE and self.tokens
        self.finish(at_ns, cut_off(self.tokens) if gone else server_said(message, self.tokens))

    def lost(self, detail: str, *, connected: bool) -> None:
        self.finish(time.perf_counter_ns(), cut_off(self.tokens) if connected else unreachable(self.address, detail))

    def finish(self, at_ns: int, error: RequestError | None = None) -> None:
        """The end, however it came; only the first one counts."""
        ended, self._ended = self._ended, None
        if ended is not None:
            self.ended_ns, self.error = at_ns, error
            self.abort = self.cancel = _nothing
            ended(self)

    def _read(self, data: bytes) -> int:
        delta = self._reader.delta(data, 0.0, self.tokens)
        self.text.append(delta.text)
        return self._reader.tokens_of(delta)
