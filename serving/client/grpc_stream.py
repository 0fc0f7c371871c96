"""Completions over Triton's gRPC stream. Raw grpc.aio with Triton's messages costs a fifth less than its own client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

from serving.client.decoding import DeltaDecoder
from serving.client.errors import RequestError, cut_off, server_said, timed_out, unreachable
from serving.client.layouts import Layout
from serving.client.request import Delta, Endpoint, Request
from serving.client.tensors import infer_request, outputs_of, stop_request

_SERVICE = "/inference.GRPCInferenceService/"
_STOP_TIMEOUT_S = 5.0
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class GrpcClient:
    """One channel to one server; any number of streams at once. Use it within one event loop and close it."""

    def __init__(self, endpoint: Endpoint, layout: Layout) -> None:
        import grpc
        from tritonclient.grpc import service_pb2

        self._grpc = grpc
        self._address = endpoint.grpc
        self._layout = layout
        self._model = endpoint.model or layout.model
        credentials = grpc.ssl_channel_credentials() if endpoint.tls else None
        self._channel = (
            grpc.aio.secure_channel(endpoint.grpc, credentials, options=_OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(endpoint.grpc, options=_OPTIONS)
        )
        self._stream = self._channel.stream_stream(
            f"{_SERVICE}ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    async def stream(self, request: Request, *, timeout_s: float) -> AsyncGenerator[Delta, None]:
        """The responses of one completion as they arrive; RequestError however it ends badly.

        Closing the generator early cancels the call and, by its request id, the generation behind an ensemble.
        """
        message = infer_request(self._layout, self._model, request)
        call = self._stream((message,), timeout=timeout_s)
        decoder, tokens, ended = DeltaDecoder(self._layout), 0, False
        try:
            async for answer in call:
                delta = self._decode(answer, decoder, tokens)
                tokens += delta.tokens or 0
                ended = delta.final
                yield delta
            if not ended:
                ended = True
                raise cut_off(tokens)
        except self._grpc.RpcError as error:
            ended = error.code() is not self._grpc.StatusCode.DEADLINE_EXCEEDED
            raise self._translate(error, timeout_s, tokens) from None
        except RequestError:
            ended = True
            raise
        finally:
            call.cancel()
            if not ended:
                await self.stop(request.request_id)

    async def stop(self, request_id: str) -> None:
        """End a generation by its request id: a cancelled ensemble would let its engine run on. Never raises."""
        if not request_id or self._layout.stop_model is None:
            return
        call = self._stream((stop_request(self._layout, request_id),), timeout=_STOP_TIMEOUT_S)
        with contextlib.suppress(self._grpc.RpcError, asyncio.CancelledError):
            async for _ in call:
                pass

    async def close(self) -> None:
        """Close the channel; open streams are cancelled."""
        await self._channel.close()

    def _decode(self, answer: Any, decoder: DeltaDecoder, tokens: int) -> Delta:
        at_s = time.perf_counter()
        if answer.error_message:
            raise server_said(answer.error_message, tokens)
        response = answer.infer_response
        try:
            outputs = outputs_of(response)
        except ValueError as error:
            raise RequestError(
                "garbage", f"{self._address} sent a broken tensor: {error}", tokens=tokens, expected="KServe tensors"
            ) from None
        return decoder.decode(outputs, at_s, final=response.parameters["triton_final_response"].bool_param)

    def _translate(self, error: Any, timeout_s: float, tokens: int) -> RequestError:
        code, status = error.code(), self._grpc.StatusCode
        if code is status.DEADLINE_EXCEEDED:
            return timed_out(self._address, timeout_s, tokens)
        if code is status.UNAVAILABLE:
            return cut_off(tokens) if tokens else unreachable(self._address, str(error.details()))
        return server_said(str(error.details()), tokens)
