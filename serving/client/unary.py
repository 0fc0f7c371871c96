"""One message for one message over gRPC: what a Triton tells beside completions."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from serving.client.errors import RequestError, server_said, unreachable
from serving.client.grpc_speech import GrpcSpeech
from serving.client.http_speech import Listener
from serving.client.links import tls_of
from serving.client.pool import Pool
from serving.client.request import Endpoint

_UNAVAILABLE = 14  # grpc.StatusCode
_TIMEOUT_S = 30.0


class UnaryClient:
    """Calls methods of Triton's inference service. Use it within one event loop and close it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pools: dict[str, Pool] = {}

    async def ask(self, method: str, message: Any, answer: Any) -> Any:
        """An `answer` (a protobuf class) to `message`; RequestError however it ends badly."""
        address = self._endpoint.grpc
        if method not in self._pools:
            path = f"/inference.GRPCInferenceService/{method}"
            speech = partial(GrpcSpeech, address, path, tls=self._endpoint.tls)
            self._pools[method] = Pool(address, speech, tls_of(self._endpoint, "h2"))
        call = _Call(address)
        connection = self._pools[method].send(message.SerializeToString(), call)
        try:
            return answer.FromString(await asyncio.wait_for(call.outcome, _TIMEOUT_S))
        except (asyncio.TimeoutError, TimeoutError):
            connection.close()
            raise unreachable(address, f"no answer within {_TIMEOUT_S:g} s") from None

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.close()


class _Call(Listener):
    """Hears one message."""

    def __init__(self, address: str) -> None:
        self.outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._address = address
        self._message = b""

    def event(self, data: bytes, at_ns: int) -> None:
        self._message = data

    def document(self, status: int, body: bytes, at_ns: int) -> None:
        """No gRPC answer is one."""

    def end(self, at_ns: int) -> None:
        if not self.outcome.done():
            self.outcome.set_result(self._message)

    def failed(self, code: int, message: str, at_ns: int) -> None:
        self._fail(unreachable(self._address, message) if code == _UNAVAILABLE else server_said(message, 0))

    def lost(self, detail: str, *, connected: bool) -> None:
        self._fail(unreachable(self._address, detail))

    def _fail(self, error: RequestError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
