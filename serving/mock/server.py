"""The mock as a whole: both servers in one event loop, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from serving.client.descriptors import allow_many
from serving.mock.behaviour import Behaviour
from serving.mock.facts import MODELS, Facts
from serving.mock.grpc_server import GrpcService
from serving.mock.grpc_wire import GrpcWire
from serving.mock.http_server import Conversation
from serving.mock.ledger import Ledger
from serving.mock.peer import Listening, Peer
from serving.mock.performance import Stage
from trtllm_kit.errors import HostError, UsageError


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where a running mock answers; OpenAI's paths are on the HTTP port. `grpc` is None when it was left out."""

    http: str
    grpc: str | None
    ledger: Ledger


@contextlib.asynccontextmanager
async def mock_server(
    behaviour: Behaviour,
    *,
    host: str = "127.0.0.1",
    http_port: int = 0,
    grpc_port: int | None = 0,
    layout: str = "engine",
    ledger_file: Path | None = None,
) -> AsyncIterator[Addresses]:
    """A mock that serves in this event loop while the block runs. Port 0 takes a free one; no gRPC port, no gRPC."""
    if layout not in MODELS:
        raise UsageError(f"unknown layout '{layout}'", expected=f"one of {', '.join(MODELS)}")
    allow_many()
    ledger = Ledger(ledger_file)
    stage, facts = Stage(behaviour, ledger), Facts(behaviour=behaviour, ledger=ledger, layout=layout)
    listening: list[Listening] = []
    try:
        listening.append(_listen(host, http_port, _conversations(stage, facts)))
        if grpc_port is not None:
            listening.append(_listen(host, grpc_port, _grpc_wires(GrpcService(stage, facts))))
        http, grpc = listening[0].port, listening[1].port if grpc_port is not None else None
        yield Addresses(http=f"{host}:{http}", grpc=f"{host}:{grpc}" if grpc else None, ledger=ledger)
    finally:
        for one in listening:
            one.close()
        ledger.finish()


def serve(
    behaviour: Behaviour,
    *,
    host: str,
    http_port: int,
    grpc_port: int | None,
    layout: str,
    ledger_file: Path | None,
    ready: Callable[[Addresses], None],
) -> Ledger:
    """Serve until SIGINT or SIGTERM; `ready` hears the addresses. Returns the ledger."""

    async def run() -> Ledger:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        opening = mock_server(
            behaviour, host=host, http_port=http_port, grpc_port=grpc_port, layout=layout, ledger_file=ledger_file
        )
        async with opening as addresses:
            # What is alive now stays so: a full collection over it would be a pause in every stream.
            gc.freeze()
            ready(addresses)
            await stop.wait()
            return addresses.ledger

    return asyncio.run(run())


def _conversations(stage: Stage, facts: Facts) -> Callable[[Peer], None]:
    def meet(peer: Peer) -> None:
        Conversation(peer, stage, facts)

    return meet


def _grpc_wires(service: GrpcService) -> Callable[[Peer], None]:
    def meet(peer: Peer) -> None:
        GrpcWire(peer, service.serve)

    return meet


def _listen(host: str, port: int, meet: Callable[[Peer], None]) -> Listening:
    try:
        return Listening(host, port, meet)
    except OSError as error:
        raise HostError(
            f"port {port} of {host}: {error.strerror or error}",
            expected="a free port",
            fix="choose another, or 0 to take a free one",
        ) from None
