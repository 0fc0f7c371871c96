"""Every way to ask for a completion: a wire and a layout in one row, so that callers know neither."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from serving.client.grpc_stream import GrpcClient
from serving.client.http_stream import HttpClient
from serving.client.layouts import LAYOUTS, Layout
from serving.client.loop import run
from serving.client.request import Completion, Delta, Endpoint, Request
from trtllm_kit.errors import UsageError

DEFAULT_TIMEOUT_S = 120.0


class Client(Protocol):
    """A connection to one server."""

    def stream(self, request: Request, *, timeout_s: float) -> AsyncGenerator[Delta, None]:
        """The responses of one completion as they arrive; RequestError when it does not end well."""

    async def stop(self, request_id: str) -> None:
        """End a generation by its id."""

    async def close(self) -> None:
        """Let go of the connection."""


@dataclass(frozen=True, kw_only=True)
class Transport:
    """One row: which layout is spoken over which wire."""

    layout: Layout
    open: Callable[[Endpoint, Layout], Client]


TRANSPORTS: Mapping[str, Transport] = MappingProxyType(
    {
        "engine-grpc": Transport(layout=LAYOUTS["engine"], open=GrpcClient),
        "engine-http": Transport(layout=LAYOUTS["engine"], open=HttpClient),
        "tokens-grpc": Transport(layout=LAYOUTS["tokens"], open=GrpcClient),
        "llmapi-grpc": Transport(layout=LAYOUTS["llmapi"], open=GrpcClient),
        "llmapi-http": Transport(layout=LAYOUTS["llmapi"], open=HttpClient),
    }
)


@contextlib.asynccontextmanager
async def open_client(endpoint: Endpoint) -> AsyncIterator[Client]:
    """A client of the endpoint's transport, closed when the block ends."""
    row = TRANSPORTS.get(endpoint.transport)
    if row is None:
        raise UsageError(f"unknown transport '{endpoint.transport}'", expected=f"one of {', '.join(TRANSPORTS)}")
    client = row.open(endpoint, row.layout)
    try:
        yield client
    finally:
        await client.close()


def stream(endpoint: Endpoint, request: Request, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Iterator[Delta]:
    """Deltas of one completion for code that is not asynchronous; leaving the loop early cancels the generation."""
    named = replace(request, request_id=request.request_id or f"kit-{uuid.uuid4().hex[:12]}")
    opening = open_client(endpoint)
    client = run(opening.__aenter__())
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


async def gather(client: Client, request: Request, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Completion:
    """One completion on an open client, waited for and added up."""
    completion = Completion()
    async with contextlib.aclosing(client.stream(request, timeout_s=timeout_s)) as deltas:
        async for delta in deltas:
            completion.add(delta)
    return completion


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta | None:
    return await anext(deltas, None)


async def _finish(deltas: AsyncGenerator[Delta, None], client: Client) -> None:
    await deltas.aclose()
    await client.close()
