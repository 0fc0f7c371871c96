"""Completions over any transport, for code that is asynchronous and for code that is not."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import replace

from serving.client.loop import run
from serving.client.request import Completion, Delta, Endpoint, Request
from serving.client.stream_client import StreamClient

DEFAULT_TIMEOUT_S = 120.0


@contextlib.asynccontextmanager
async def open_client(endpoint: Endpoint) -> AsyncIterator[StreamClient]:
    """A client of the endpoint's transport, closed when the block ends."""
    client = StreamClient(endpoint)
    try:
        yield client
    finally:
        await client.close()


def stream(endpoint: Endpoint, request: Request, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Iterator[Delta]:
    """Deltas of one completion for code that is not asynchronous; leaving the loop early cancels the generation."""
    named = replace(request, request_id=request.request_id or f"kit-{uuid.uuid4().hex[:12]}")
    client = run(_open(endpoint))
    deltas = client.stream(named, timeout_s=timeout_s)
    try:
        while (delta := run(_next(deltas))) is not None:
            yield delta
    finally:
        run(_finish(deltas, client))


def complete(endpoint: Endpoint, request: Request, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Completion:
    """One completion, waited for and added up."""
    completion = Completion()
    for delta in stream(endpoint, request, timeout_s=timeout_s):
        completion.add(delta)
    return completion


async def gather(client: StreamClient, request: Request, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Completion:
    """One completion on an open client, waited for and added up."""
    completion = Completion()
    async with contextlib.aclosing(client.stream(request, timeout_s=timeout_s)) as deltas:
        async for delta in deltas:
            completion.add(delta)
    return completion


async def _open(endpoint: Endpoint) -> StreamClient:
    return StreamClient(endpoint)


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta | None:
    return await anext(deltas, None)


async def _finish(deltas: AsyncGenerator[Delta, None], client: StreamClient) -> None:
    await deltas.aclose()
    await client.close()
