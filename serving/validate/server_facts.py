"""What a server tells about itself and its models, beyond completions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from serving.client.errors import RequestError, server_said, unreachable
from serving.client.links import link_of
from serving.client.loop import run
from serving.client.request import Endpoint
from serving.client.tensors import infer_message, outputs_of
from serving.validate.http_facts import no_such_model, openai_facts, triton_facts

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ServerFacts:
    """Server version and the habits of the model that generates."""

    server_version: str
    decoupled: bool
    models: tuple[str, ...]


def server_facts(endpoint: Endpoint) -> ServerFacts:
    """Ask over the endpoint's own wire; RequestError when nobody answers, UsageError when its model is not there."""
    link = link_of(endpoint)
    layout = link.layout
    engine = (layout.stop_model or layout.model) if layout else link.model
    if endpoint.transport.endswith("grpc"):
        found = run(_facts(endpoint, engine))
    elif layout:
        found = ServerFacts(*triton_facts(endpoint, engine))
    else:
        found = ServerFacts(*openai_facts(endpoint, endpoint.model or link.model))
    asked = endpoint.model
    if asked and found.models and asked not in found.models:
        raise no_such_model(endpoint.http, asked, found.models)
    return found


def encode_on_server(endpoint: Endpoint, texts: list[str]) -> list[list[int]]:
    """Token ids of each text as the server's `preprocessing` model gives them; empty where it refuses the text."""
    return run(_encode(endpoint, texts))


async def _facts(endpoint: Endpoint, engine: str) -> ServerFacts:
    from tritonclient.grpc import service_pb2

    async with _Unary(endpoint) as ask:
        metadata = await ask("ServerMetadata", service_pb2.ServerMetadataRequest(), service_pb2.ServerMetadataResponse)
        index = await ask("RepositoryIndex", service_pb2.RepositoryIndexRequest(), service_pb2.RepositoryIndexResponse)
        config = await ask("ModelConfig", service_pb2.ModelConfigRequest(name=engine), service_pb2.ModelConfigResponse)
    return ServerFacts(
        server_version=metadata.version,
        decoupled=config.config.model_transaction_policy.decoupled,
        models=tuple(sorted(model.name for model in index.models)),
    )


async def _encode(endpoint: Endpoint, texts: list[str]) -> list[list[int]]:
    from tritonclient.grpc import service_pb2

    async with _Unary(endpoint) as ask:

        async def encode(text: str) -> list[int]:
            rows: list[tuple[str, str, list[bool | int | float | str]]] = [
                ("QUERY", "BYTES", [text]),
                ("REQUEST_OUTPUT_LEN", "INT32", [1]),
            ]
            message = infer_message("preprocessing", "", rows, batched=True)
            del message.parameters["triton_enable_empty_final_response"]
            try:
                outputs = outputs_of(await ask("ModelInfer", message, service_pb2.ModelInferResponse))
            except RequestError as error:
                if error.kind == "refused":
                    return []  # a text without any token, which Hugging Face answers with an empty list
                raise
            return [int(value) for value in outputs["INPUT_ID"]]

        return [await encode(text) for text in texts]


class _Unary:
    """Unary calls on one channel."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __aenter__(self) -> _Unary:
        import grpc

        self._grpc = grpc
        self._channel = (
            grpc.aio.secure_channel(self._endpoint.grpc, grpc.ssl_channel_credentials())
            if self._endpoint.tls
            else grpc.aio.insecure_channel(self._endpoint.grpc)
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._channel.close()

    async def __call__(self, method: str, message: Any, answer: Any) -> Any:
        call = self._channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=type(message).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return await asyncio.wait_for(call(message), _TIMEOUT_S)
        except (asyncio.TimeoutError, TimeoutError):
            raise unreachable(self._endpoint.grpc, f"no answer within {_TIMEOUT_S:g} s") from None
        except self._grpc.RpcError as error:
            if error.code() is self._grpc.StatusCode.UNAVAILABLE:
                raise unreachable(self._endpoint.grpc, str(error.details())) from None
            raise server_said(str(error.details()), 0) from None
