"""Completions as asynchronous streams of deltas, over any link; for everything that asks one thing at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from http import HTTPStatus

from serving.client.errors import RequestError, cut_off, server_said, timed_out, unreachable
from serving.client.http_speech import Listener
from serving.client.links import link_of, open_pool
from serving.client.readers import Reader, parse
from serving.client.request import Delta, Endpoint, Request

_UNAVAILABLE = 14  # grpc.StatusCode
_STOP_TIMEOUT_S = 5.0


class StreamClient:
    """Keeps idle connections to one server. Use it within one event loop and close it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._link = link_of(endpoint)
        self._model = endpoint.model or self._link.model
        self._pool = open_pool(endpoint)

    async def stream(self, request: Request, *, timeout_s: float) -> AsyncGenerator[Delta, None]:
        """The responses of one completion as they arrive; RequestError however it ends badly.

        Closing the generator early cancels the call and, by its request id, the generation behind an ensemble.
        """
        content = self._link.content(self._endpoint, self._model, request)
        answer = _Answer(self._link.reader(), stream=request.stream, address=self._pool.address)
        connection = self._pool.send(content, answer)
        timer = asyncio.get_running_loop().call_later(timeout_s, answer.expire, timeout_s)
        try:
            while (delta := await answer.next()) is not None:
                yield delta
        finally:
            timer.cancel()
            if answer.left_early:
                connection.close()
                await self.stop(request.request_id)

    async def stop(self, request_id: str) -> None:
        """End a generation by its request id: a cancelled ensemble would let its engine run on. Never raises."""
        if not request_id or self._link.stop is None:
            return
        answer = _Answer(self._link.reader(), stream=True, address=self._pool.address)
        connection = self._pool.send(self._link.stop(self._endpoint, request_id), answer)
        timer = asyncio.get_running_loop().call_later(_STOP_TIMEOUT_S, answer.expire, _STOP_TIMEOUT_S)
        try:
            while await answer.next() is not None:
                pass
        except RequestError:
            pass
        finally:
            timer.cancel()
            if answer.left_early:
                connection.close()

    async def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _Answer(Listener):
    """Hands deltas to one waiting coroutine; it wants the text of every event."""

    def __init__(self, reader: Reader, *, stream: bool, address: str) -> None:
        self._reader = reader
        self._stream = stream
        self._address = address
        self._deltas: deque[Delta] = deque()
        self._tokens = 0
        self._error: RequestError | None = None
        self._over = False
        self._timed_out = False
        self._news = asyncio.Event()

    @property
    def left_early(self) -> bool:
        """Whether the server may still be at work on it."""
        return not self._over or self._timed_out

    async def next(self) -> Delta | None:
        """The next delta, None at the end, RequestError at a bad one."""
        while not self._deltas:
            if self._error is not None:
                raise self._error
            if self._over:
                return None
            self._news.clear()
            await self._news.wait()
        return self._deltas.popleft()

    def expire(self, seconds: float) -> None:
        """Its time is over."""
        if not self._over:
            self._timed_out = True
            self._finish(timed_out(self._address, seconds, self._tokens))

    def event(self, data: bytes, at_ns: int) -> None:
        if self._over:
            return None
        try:
            delta = self._reader.delta(data, at_ns / 1e9, self._tokens)
        except RequestError as error:
            return self._finish(error)
        self._tokens += self._reader.tokens_of(delta)
        self._deltas.append(delta)
        self._news.set()
        return None

    def document(self, status: int, body: bytes, at_ns: int) -> None:
        if status == HTTPStatus.OK and not self._stream:
            self.event(body, at_ns)
            self._finish(None)
        else:
            self._finish(refusal(status, body))

    def end(self, at_ns: int) -> None:
        self._finish(None if self._reader.ended else cut_off(self._tokens))

    def failed(self, code: int, message: str, at_ns: int) -> None:
        gone = code == _UNAVAILABLE and self._tokens
        self._finish(cut_off(self._tokens) if gone else server_said(message, self._tokens))

    def lost(self, detail: str, *, connected: bool) -> None:
        self._finish(cut_off(self._tokens) if connected else unreachable(self._address, detail))

    def _finish(self, error: RequestError | None) -> None:
        if not self._over:
            self._over, self._error = True, error
            self._news.set()


def refusal(status: int, body: bytes) -> RequestError:
    """What an answer means that is no stream: Triton and OpenAI put their words into JSON, others may not."""
    try:
        parse(body.removeprefix(b"data:").strip(), 0)
    except RequestError as error:
        if error.kind != "garbage":
            return error
    words = body.decode("utf-8", errors="replace").strip()[:500] or "an empty answer"
    return server_said(words if status != HTTPStatus.OK else f"no event stream came: {words}", 0)
