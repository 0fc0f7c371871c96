"""Every way to ask for a completion, one row each: a wire, the words on it, and how its answers are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from serving.client import http_bodies
from serving.client.grpc_speech import GrpcSpeech
from serving.client.http_speech import HttpSpeech, Speech
from serving.client.layouts import LAYOUTS, Layout
from serving.client.pool import Pool
from serving.client.readers import CumulativeReader, EngineReader, GrpcReader, OpenAIReader, Reader
from serving.client.request import Endpoint, Request
from serving.client.tensors import infer_request, stop_request
from trtllm_kit.errors import UsageError

if TYPE_CHECKING:
    import ssl

_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass(frozen=True, kw_only=True)
class Link:
    """`model` is asked where the endpoint names none."""

    address: Callable[[Endpoint], str]
    speech: Callable[[Endpoint], Speech]
    content: Callable[[Endpoint, str, Request], bytes]  # the same request gives the same bytes
    reader: Callable[[], Reader]
    model: str
    stop: Callable[[Endpoint, str], bytes] | None = None  # what ends the generation of a request id
    protocol: str = "http/1.1"  # for TLS's ALPN
    layout: Layout | None = None


def _http(endpoint: Endpoint) -> str:
    return endpoint.http


def _grpc(endpoint: Endpoint) -> str:
    return endpoint.grpc


def _http_speech(endpoint: Endpoint) -> Speech:
    return HttpSpeech()


def _grpc_speech(endpoint: Endpoint) -> Speech:
    return GrpcSpeech(endpoint.grpc, _STREAM_INFER, tls=endpoint.tls)


def _grpc_row(name: str) -> Link:
    layout = LAYOUTS[name]

    def content(endpoint: Endpoint, model: str, request: Request) -> bytes:
        return _serialized(infer_request(layout, model, request))

    def stop(endpoint: Endpoint, request_id: str) -> bytes:
        return _serialized(stop_request(layout, request_id))

    return Link(
        address=_grpc,
        speech=_grpc_speech,
        content=content,
        reader=partial(GrpcReader, layout),
        model=layout.model,
        stop=stop if layout.stop_model else None,
        protocol="h2",
        layout=layout,
    )


def _triton_row(name: str, reader: Callable[[Layout], Reader]) -> Link:
    layout = LAYOUTS[name]

    def content(endpoint: Endpoint, model: str, request: Request) -> bytes:
        return http_bodies.generate(endpoint, model, layout, request)

    def stop(endpoint: Endpoint, request_id: str) -> bytes:
        return http_bodies.stop(endpoint, layout, request_id)

    return Link(
        address=_http,
        speech=_http_speech,
        content=content,
        reader=partial(reader, layout),
        model=layout.model,
        stop=stop if layout.stop_model else None,
        layout=layout,
    )


def _openai_row(content: Callable[[Endpoint, str, Request], bytes]) -> Link:
    return Link(address=_http, speech=_http_speech, content=content, reader=OpenAIReader, model="ensemble")


def _serialized(message: Any) -> bytes:
    content = message.SerializeToString(deterministic=True)
    assert isinstance(content, bytes)
    return content


LINKS: Mapping[str, Link] = MappingProxyType(
    {
        "engine-grpc": _grpc_row("engine"),
        "engine-http": _triton_row("engine", EngineReader),
        "tokens-grpc": _grpc_row("tokens"),
        "llmapi-grpc": _grpc_row("llmapi"),
        "llmapi-http": _triton_row("llmapi", CumulativeReader),
        "openai-completions": _openai_row(http_bodies.completions),
        "openai-chat": _openai_row(http_bodies.chat),
    }
)


def open_pool(endpoint: Endpoint) -> Pool:
    """Connections for the endpoint's transport, within the running event loop."""
    link = link_of(endpoint)
    return Pool(link.address(endpoint), lambda: link.speech(endpoint), tls_of(endpoint, link.protocol))


def tls_of(endpoint: Endpoint, protocol: str) -> ssl.SSLContext | None:
    """How its connections are secured, where they are."""
    return endpoint.trust.context(protocol) if endpoint.tls else None


def link_of(endpoint: Endpoint) -> Link:
    """The row of the endpoint's transport; UsageError when there is none."""
    link = LINKS.get(endpoint.transport)
    if link is None:
        raise UsageError(f"unknown transport '{endpoint.transport}'", expected=f"one of {', '.join(LINKS)}")
    return link
