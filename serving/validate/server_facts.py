"""What a server tells about itself and its models, beyond completions."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from serving.client.errors import RequestError
from serving.client.links import link_of
from serving.client.loop import run
from serving.client.request import Endpoint
from serving.client.tensors import infer_message, outputs_of
from serving.client.unary import UnaryClient
from serving.validate.http_facts import no_such_model, openai_facts, triton_facts


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

    with contextlib.closing(UnaryClient(endpoint)) as client:
        ask = client.ask
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

    with contextlib.closing(UnaryClient(endpoint)) as client:

        async def encode(text: str) -> list[int]:
            rows: list[tuple[str, str, list[bool | int | float | str]]] = [
                ("QUERY", "BYTES", [text]),
                ("REQUEST_OUTPUT_LEN", "INT32", [1]),
            ]
            message = infer_message("preprocessing", "", rows, batched=True)
            del message.parameters["triton_enable_empty_final_response"]
            try:
                outputs = outputs_of(await client.ask("ModelInfer", message, service_pb2.ModelInferResponse))
            except RequestError as error:
                if error.kind == "refused":
                    return []  # a text without any token, which Hugging Face answers with an empty list
                raise
            return [int(value) for value in outputs["INPUT_ID"]]

        return [await encode(text) for text in texts]
