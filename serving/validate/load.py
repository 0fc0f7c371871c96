"""A closed loop: a fixed number of requests, each worker sending its next one when its last has ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from serving.client.errors import RequestError
from serving.client.request import Completion, Request
from serving.client.transports import Client

_WARM_UP_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class RequestRecord:
    """What one request did. Times are time.perf_counter() seconds; `first_s` is None when no token came."""

    asked: int
    sent_s: float
    first_s: float | None
    last_s: float
    tokens: int
    input_tokens: int | None
    counted_by: str
    error: str | None = None  # a kind of serving.client.errors.KINDS
    message: str = ""
    gaps_s: tuple[float, ...] = field(default=(), repr=False)  # between tokens; one per token after the first


@dataclass(frozen=True, kw_only=True)
class LoadRun:
    """All requests of one level, and the time from the first sent to the last ended."""

    concurrency: int
    records: tuple[RequestRecord, ...]
    duration_s: float


async def closed_loop(
    client: Client,
    requests: Sequence[Request],
    *,
    warm_up: Sequence[Request],
    concurrency: int,
    timeout_s: float,
    done: Callable[[int], None] = lambda count: None,
) -> LoadRun:
    """Send all `requests`, at most `concurrency` at once; `done` hears how many have ended.

    `warm_up`, shortened, goes before and is not counted: it opens connections and wakes the engine. Its prompts must
    not be among `requests`, or these would find their prefixes in the cache. The clock starts when it has ended.
    """
    short = [replace(request, max_tokens=min(request.max_tokens, _WARM_UP_TOKENS)) for request in warm_up]
    await _drain(client, iter(short), concurrency, timeout_s, lambda count: None)
    started = time.perf_counter()
    records = await _drain(client, iter(requests), concurrency, timeout_s, done)
    return LoadRun(concurrency=concurrency, records=tuple(records), duration_s=time.perf_counter() - started)


async def _drain(
    client: Client, requests: Iterator[Request], concurrency: int, timeout_s: float, done: Callable[[int], None]
) -> list[RequestRecord]:
    records: list[RequestRecord] = []

    async def work() -> None:
        for request in requests:
            records.append(await _send(client, request, timeout_s))
            done(len(records))

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return records


async def _send(client: Client, request: Request, timeout_s: float) -> RequestRecord:
    completion = Completion()
    error: RequestError | None = None
    try:
        async with contextlib.aclosing(client.stream(request, timeout_s=timeout_s)) as deltas:
            async for delta in deltas:
                completion.add(delta)
    except RequestError as raised:
        error = raised
    arrivals = completion.arrivals
    return RequestRecord(
        asked=request.max_tokens,
        sent_s=completion.started_s,
        first_s=arrivals[0][0] if arrivals else None,
        last_s=arrivals[-1][0] if arrivals else time.perf_counter(),
        tokens=completion.tokens,
        input_tokens=completion.input_tokens,
        counted_by=completion.counted_by,
        error=error.kind if error else None,
        message=error.happened if error else "",
        gaps_s=_gaps(arrivals),
    )


def _gaps(arrivals: list[tuple[float, int]]) -> tuple[float, ...]:
    """A response of k tokens stands for k equal gaps; the first response's own further tokens came with no wait."""
    gaps: list[float] = []
    for (before, _), (at, tokens) in itertools.pairwise(arrivals):
        gaps += [(at - before) / tokens] * tokens
    return tuple(gaps)
