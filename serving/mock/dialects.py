"""The words of each HTTP interface: one row per interface, from a JSON body to an Asked and from chunks to events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from serving.mock.behaviour import Chunk
from serving.mock.performance import Asked

Body = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """`event` gets (chunk, text so far, what was asked); `whole` gets the only chunk and what was asked."""

    name: str
    asked: Callable[[Body], Asked]
    event: Callable[[Chunk, str, Asked], Body]
    whole: Callable[[Chunk, Asked], Body]
    error: Callable[[str], Body]
    error_status: int = 400
    first: Callable[[], Body] | None = None  # an event before the first token
    last: Callable[[int, Asked], list[Body]] = lambda tokens, asked: []  # events after the last token
    end: bytes = b""


def _triton_asked(body: Body) -> Asked:
    whole = not body.get("exclude_input_in_output", False) and not body.get("stream", False)
    return Asked(
        prompt=str(body["text_input"]),
        max_tokens=int(body["max_tokens"]),
        stream=bool(body.get("stream", False)),
        echo=whole,
        usage=bool(body.get("return_num_output_tokens", False)),
        request_id=str(body.get("id", "")),
    )


def _llmapi_asked(body: Body) -> Asked:
    return Asked(
        prompt=str(body["text_input"]),
        max_tokens=int(body.get("sampling_param_max_tokens", 16)),
        stream=bool(body.get("streaming", False)),
        echo=not body.get("sampling_param_exclude_input_from_output", True),
        request_id=str(body.get("id", "")),
    )


def _openai_asked(body: Body) -> Asked:
    if "messages" in body:
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
    else:
        prompt = str(body["prompt"])
    return Asked(
        prompt=prompt,
        max_tokens=int(body.get("max_completion_tokens") or body.get("max_tokens") or 16),
        stream=bool(body.get("stream", False)),
        echo=bool(body.get("echo", False)),
        usage=not body.get("stream") or bool((body.get("stream_options") or {}).get("include_usage")),
        request_id=str(body.get("request_id", "")),
    )


def _engine_event(chunk: Chunk, asked: Asked) -> Body:
    counts = {"num_input_tokens": asked.input_tokens, "num_output_tokens": chunk.tokens} if asked.usage else {}
    return {
        "model_name": "ensemble",
        "model_version": "1",
        **counts,
        "sequence_end": False,
        "sequence_id": 0,
        "sequence_index": 0,
        "text_output": chunk.text,
    }


def _llmapi_event(text: str) -> Body:
    return {"model_name": "tensorrt_llm", "model_version": "1", "text_output": text}


def _openai(kind: str, choices: list[Body], **more: Any) -> Body:
    return {"id": "cmpl-mock", "object": kind, "created": 0, "model": "mock", "choices": choices, **more}


def _usage(input_tokens: int, tokens: int) -> Body:
    return {"prompt_tokens": input_tokens, "completion_tokens": tokens, "total_tokens": input_tokens + tokens}


def _openai_last(kind: str, finish: Body) -> Callable[[int, Asked], list[Body]]:
    def last(tokens: int, asked: Asked) -> list[Body]:
        events = [_openai(kind, [{"index": 0, **finish, "finish_reason": "length"}])]
        return events + ([_openai(kind, [], usage=_usage(asked.input_tokens, tokens))] if asked.usage else [])

    return last


def _openai_error(message: str) -> Body:
    return {"error": {"message": message, "type": "server_error", "code": 500}}


def _openai_whole(kind: str, content: Callable[[str], Body]) -> Callable[[Chunk, Asked], Body]:
    def whole(chunk: Chunk, asked: Asked) -> Body:
        # OpenAI's usage never counts what was echoed.
        tokens = chunk.tokens - asked.input_tokens * asked.echo
        choice = {"index": 0, **content(chunk.text), "finish_reason": "length"}
        return _openai(kind, [choice], usage=_usage(asked.input_tokens, tokens))

    return whole


def _choice(content: Body) -> list[Body]:
    return [{"index": 0, **content, "finish_reason": None}]


_COMPLETION, _CHAT, _CHAT_CHUNK = "text_completion", "chat.completion", "chat.completion.chunk"

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "engine": Dialect(
            name="engine",
            asked=_triton_asked,
            event=lambda chunk, so_far, asked: _engine_event(chunk, asked),
            whole=_engine_event,
            error=lambda message: {"error": message},
        ),
        "llmapi": Dialect(
            name="llmapi",
            asked=_llmapi_asked,
            event=lambda chunk, so_far, asked: _llmapi_event(so_far),
            whole=lambda chunk, asked: _llmapi_event(chunk.text),
            error=lambda message: {"error": message},
        ),
        "completions": Dialect(
            name="completions",
            asked=_openai_asked,
            event=lambda chunk, so_far, asked: _openai(_COMPLETION, _choice({"text": chunk.text})),
            whole=_openai_whole(_COMPLETION, lambda text: {"text": text}),
            error=_openai_error,
            error_status=500,
            last=_openai_last(_COMPLETION, {"text": ""}),
            end=b"data: [DONE]\n\n",
        ),
        "chat": Dialect(
            name="chat",
            asked=_openai_asked,
            event=lambda chunk, so_far, asked: _openai(_CHAT_CHUNK, _choice({"delta": {"content": chunk.text}})),
            whole=_openai_whole(_CHAT, lambda text: {"message": {"role": "assistant", "content": text}}),
            error=_openai_error,
            error_status=500,
            first=lambda: _openai(_CHAT_CHUNK, _choice({"delta": {"role": "assistant", "content": ""}})),
            last=_openai_last(_CHAT_CHUNK, {"delta": {}}),
            end=b"data: [DONE]\n\n",
        ),
    }
)


def event_bytes(body: Body) -> bytes:
    """One server-sent event, in the spacing of the servers that are played."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
