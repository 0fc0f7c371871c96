"""Completions over Triton's `generate` and `generate_stream`, where an error may hide in an HTTP 200."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

from serving.client.decoding import DeltaDecoder
from serving.client.errors import RequestError, cut_off, server_said, timed_out, unreachable
from serving.client.http_connection import HttpConnection
from serving.client.layouts import Layout
from serving.client.request import Delta, Endpoint, Request

_STOP_TIMEOUT_S = 5.0


class HttpClient:
    """Keeps idle connections to one server. Use it within one event loop and close it."""

    def __init__(self, endpoint: Endpoint, layout: Layout) -> None:
        self._endpoint = endpoint
        self._layout = layout
        self._model = endpoint.model or layout.model
        self._idle: list[HttpConnection] = []
        self._closed = False

    async def stream(self, request: Request, *, timeout_s: float) -> AsyncGenerator[Delta, None]:
        """As GrpcClient.stream; a request with `stream` off goes to `generate` and gives one delta."""
        events = self._events(self._model, _body(self._layout, request), request.stream, timeout_s)
        decoder, tokens, ended = DeltaDecoder(self._layout), 0, False
        try:
            async for event in events:
                delta = _delta(event, decoder, tokens)
                tokens += delta.tokens or 0
                yield delta
            ended = True
        except (TimeoutError, asyncio.TimeoutError):
            raise timed_out(self._endpoint.http, timeout_s, tokens) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            ended = True
            raise cut_off(tokens) from None
        except RequestError:
            ended = True
            raise
        finally:
            await events.aclose()
            if not ended:
                await self.stop(request.request_id)

    async def stop(self, request_id: str) -> None:
        """End a generation by its request id. Never raises."""
        if not request_id or self._layout.stop_model is None:
            return
        body = {"id": request_id, "input_ids": [0], "input_lengths": 1, "request_output_len": 1, "streaming": True}
        events = self._events(self._layout.stop_model, {**body, "stop": True}, True, _STOP_TIMEOUT_S)
        with contextlib.suppress(RequestError, OSError, EOFError, asyncio.TimeoutError):
            async for _ in events:
                pass
        await events.aclose()

    async def close(self) -> None:
        """Close what is idle now, and what is still at work when it is done."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _events(
        self, model: str, body: dict[str, Any], stream: bool, timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        """JSON documents of one answer. The connection is kept only when the answer was read to its end."""
        path = f"/v2/models/{model}/generate{'_stream' if stream else ''}"
        connection = self._idle.pop() if self._idle else await self._connect(timeout_s)
        # A timer that drops the connection costs nothing per token, unlike a timeout around each read.
        timer = asyncio.get_running_loop().call_later(timeout_s, connection.expire)
        whole = False
        try:
            await connection.post(path, json.dumps(body).encode())
            if connection.status != HTTPStatus.OK:
                raise server_said(_message(await connection.read_all()), 0)
            if stream:
                async for event in connection.server_sent_events():
                    yield event
            else:
                yield await connection.read_all()
            whole = True
        except (asyncio.IncompleteReadError, ConnectionError):
            if connection.expired:
                raise asyncio.TimeoutError from None
            raise
        finally:
            timer.cancel()
            if whole and connection.reusable and not self._closed:
                self._idle.append(connection)
            else:
                connection.close()

    async def _connect(self, timeout_s: float) -> HttpConnection:
        opening = HttpConnection.open(self._endpoint.http, tls=self._endpoint.tls)
        try:
            return await asyncio.wait_for(opening, timeout_s)
        except OSError as error:
            if isinstance(error, asyncio.TimeoutError):
                raise
            raise unreachable(self._endpoint.http, error.strerror or str(error)) from None


def _body(layout: Layout, request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {"id": request.request_id} if request.request_id else {}
    for name, _, values in layout.tensors(request):
        body[name] = values[0] if len(values) == 1 and name != "input_ids" else values
    return body


def _delta(event: bytes, decoder: DeltaDecoder, tokens: int) -> Delta:
    at_s = time.perf_counter()
    try:
        document = json.loads(event)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RequestError(
            "garbage", f"the server sent {event[:80]!r}", tokens=tokens, expected="a JSON object, as Triton sends"
        )
    if "error" in document:
        raise server_said(str(document["error"]), tokens)
    outputs = {name: value if isinstance(value, list) else [value] for name, value in document.items()}
    return decoder.decode(outputs, at_s)


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content.removeprefix(b"data:"))["error"])
    except (ValueError, KeyError, TypeError):
        return content.decode("utf-8", errors="replace").strip()[:500] or "an empty answer"
