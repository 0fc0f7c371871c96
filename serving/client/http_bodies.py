"""What is posted for a completion, in the words of each HTTP interface: whole HTTP/1.1 requests in bytes."""

from __future__ import annotations

import json
from typing import Any

from serving.client.layouts import Layout
from serving.client.request import Endpoint, Request
from trtllm_kit.errors import UsageError

_OPENAI_FIELDS = ("max_tokens", "temperature", "top_k", "top_p", "seed", "repetition_penalty", "min_tokens")


def generate(endpoint: Endpoint, model: str, layout: Layout, request: Request) -> bytes:
    """Triton's generate extension."""
    body: dict[str, Any] = {"id": request.request_id} if request.request_id else {}
    for name, _, values in layout.tensors(request):
        body[name] = values[0] if len(values) == 1 and name != "input_ids" else values
    return post(endpoint, f"/v2/models/{model}/generate{'_stream' if request.stream else ''}", body)


def stop(endpoint: Endpoint, layout: Layout, request_id: str) -> bytes:
    """Ends a generation. The engine ignores the other inputs, Triton wants them."""
    body = {"id": request_id, "input_ids": [0], "input_lengths": 1, "request_output_len": 1, "streaming": True}
    return post(endpoint, f"/v2/models/{layout.stop_model}/generate_stream", {**body, "stop": True})


def completions(endpoint: Endpoint, model: str, request: Request) -> bytes:
    """OpenAI's completions."""
    return post(endpoint, "/v1/completions", {"prompt": request.prompt, **_openai(model, request)})


def chat(endpoint: Endpoint, model: str, request: Request) -> bytes:
    """OpenAI's chat completions; a bare prompt is what the user says."""
    turns = request.messages or (("user", request.prompt),)
    messages = [{"role": role, "content": content} for role, content in turns]
    return post(endpoint, "/v1/chat/completions", {"messages": messages, **_openai(model, request)})


def post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> bytes:
    """A POST of JSON; UsageError when a text is no Unicode."""
    try:
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise UsageError("the prompt is not valid Unicode text", expected="text that can be sent as UTF-8") from None
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {endpoint.http}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode("latin-1") + content


def _openai(model: str, request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "stream": request.stream}
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    for name in _OPENAI_FIELDS:
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stop_words:
        body["stop"] = list(request.stop_words)
    if request.end_id == -1:
        body["ignore_eos"] = True  # of TensorRT-LLM's and vLLM's servers: go on after the end of the sequence
    return body
