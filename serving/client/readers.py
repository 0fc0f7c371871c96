"""From the raw events of one answer to tokens and text: one reader per way that servers count, each for one answer.

A load test reads every event, so counts are found without parsing the JSON around them where that is safe: inside a
JSON string a quotation mark is always escaped, so `"num_output_tokens":` can only be a key. Whatever does not look as
usual is parsed in full.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from serving.client.decoding import DeltaDecoder
from serving.client.errors import RequestError, server_said
from serving.client.layouts import Layout
from serving.client.likeness import Likeness
from serving.client.request import Delta
from serving.client.tensors import outputs_of

_TOKENS = re.compile(rb'"num_output_tokens":\s*\[?(\d+)')
_INPUT_TOKENS = re.compile(rb'"num_input_tokens":\s*\[?(\d+)')
_TRITON_TEXT = re.compile(rb'"text_output":\s*"((?:[^"\\]|\\.)*)"')
_OPENAI_TEXT = re.compile(rb'"(?:text|content|reasoning_content|reasoning|arguments)":\s*"[^"]')
_DONE = b"[DONE]"


class Reader(Protocol):
    """Reads the events of one answer in order, each by `count` (lean) or by `delta` (in full)."""

    counted_by: str  # server: its count of every response · usage: of the whole answer · responses: that bear text
    input_tokens: int | None
    total: int | None  # the server's count of the whole answer, where it gives one
    ended: bool  # whether the stream may end here
    likeness: Likeness | None  # what it holds for is an event of one token, which `count` need not be asked for

    def count(self, event: bytes, so_far: int) -> int:
        """Tokens of this event, 0 when it carries none; RequestError when it is an error or no event at all."""

    def delta(self, event: bytes, at_s: float, so_far: int) -> Delta:
        """All of this event; RequestError likewise."""

    def tokens_of(self, delta: Delta) -> int:
        """A delta's tokens by the server, else by the response."""


class _Reader:
    __slots__ = ("counted_by", "ended", "input_tokens", "likeness", "total")

    def __init__(self, counted_by: str, *, ended: bool) -> None:
        self.counted_by = counted_by
        self.ended = ended
        self.input_tokens: int | None = None
        self.total: int | None = None
        self.likeness: Likeness | None = None

    def tokens_of(self, delta: Delta) -> int:
        if delta.input_tokens is not None:
            self.input_tokens = delta.input_tokens
        if delta.tokens is not None:
            return delta.tokens
        speaks = bool(delta.text or delta.ids)
        if speaks:
            self.counted_by = "responses"
        return int(speaks)


class EngineReader(_Reader):
    """Deltas with the server's own count, over HTTP; one that gives none is counted by responses that bear text."""

    __slots__ = ("_decoder",)

    def __init__(self, layout: Layout) -> None:
        super().__init__("server", ended=True)
        self._decoder = DeltaDecoder(layout)

    def count(self, event: bytes, so_far: int) -> int:
        if self.likeness is not None and self.likeness.holds(event):
            return 1
        found = _TOKENS.search(event)
        if found is None or b'"error":' in event:
            return self.tokens_of(self.delta(event, 0.0, so_far))
        if self.input_tokens is None and (given := _INPUT_TOKENS.search(event)):
            self.input_tokens = int(given[1])
        if found[1] == b"1" and (text := _TRITON_TEXT.search(event)) and text[1]:
            self.likeness = Likeness.of(event, text.start(1))
        return int(found[1])

    def delta(self, event: bytes, at_s: float, so_far: int) -> Delta:
        return self._decoder.decode(_triton_outputs(parse(event, so_far)), at_s)


class CumulativeReader(_Reader):
    """The text so far with every response, and no counts: a response that changes the text is one token."""

    __slots__ = ("_decoder", "_seen")

    def __init__(self, layout: Layout) -> None:
        super().__init__("responses", ended=True)
        self._decoder = DeltaDecoder(layout)
        self._seen = b""

    def count(self, event: bytes, so_far: int) -> int:
        found = _TRITON_TEXT.search(event)
        if found is None or b'"error":' in event:
            parse(event, so_far)
            return 0
        before, self._seen = self._seen, found[1]
        return int(self._seen != before)

    def delta(self, event: bytes, at_s: float, so_far: int) -> Delta:
        return self._decoder.decode(_triton_outputs(parse(event, so_far)), at_s)


class OpenAIReader(_Reader):
    """Deltas of `choices`; the count comes with `usage`, at the end or, from some servers, with every chunk."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("responses", ended=False)

    def count(self, event: bytes, so_far: int) -> int:
        if self.likeness is not None and self.likeness.holds(event):
            return 1
        if b'"usage":{' in event or b'"usage": {' in event or b'"choices":' not in event or b'"error":' in event:
            return self.tokens_of(self.delta(event, 0.0, so_far))
        found = _OPENAI_TEXT.search(event)
        if found is None:
            return 0
        self.likeness = Likeness.of(event, found.end() - 1)
        return 1

    def delta(self, event: bytes, at_s: float, so_far: int) -> Delta:
        if event == _DONE:
            self.ended = True
            return Delta(text="", tokens=0, at_s=at_s, final=True)
        document = parse(event, so_far)
        choice = (document.get("choices") or [{}])[0]
        message = choice.get("delta") or choice.get("message") or {}
        text = str(choice.get("text") or message.get("content") or "")
        usage = document.get("usage")
        if usage is None:
            return Delta(text=text, tokens=None, at_s=at_s)
        self.counted_by, self.total, self.input_tokens = "usage", usage["completion_tokens"], usage["prompt_tokens"]
        tokens = max(usage["completion_tokens"] - so_far, 0) if _OPENAI_TEXT.search(event) else 0
        return Delta(text=text, tokens=tokens, at_s=at_s, input_tokens=self.input_tokens, total=self.total)


class GrpcReader(_Reader):
    """Serialized ModelStreamInferResponse messages of any layout."""

    __slots__ = ("_decoder", "_layout", "_parse", "_place")

    def __init__(self, layout: Layout) -> None:
        from tritonclient.grpc import service_pb2

        super().__init__("server" if layout.tokens else "responses", ended=False)
        self._layout = layout
        self._decoder = DeltaDecoder(layout)
        self._parse = service_pb2.ModelStreamInferResponse.FromString
        self._place = (0, 0)  # outputs of the last response, and which of them is its count

    def count(self, event: bytes, so_far: int) -> int:
        answer = self._parse(event)
        response = answer.infer_response
        outputs, contents = response.outputs, response.raw_output_contents
        size, at = self._place
        # A response like the one before it, which is nearly every one, needs no look at its other tensors.
        if not size or len(outputs) != size or answer.error_message or outputs[at].name != self._layout.tokens:
            return self._count_in_full(event, answer, so_far)
        if response.parameters["triton_final_response"].bool_param:
            self.ended = True
        return int.from_bytes(contents[at], "little")

    def _count_in_full(self, event: bytes, answer: Any, so_far: int) -> int:
        tokens = self.tokens_of(self.delta(event, 0.0, so_far))
        names = [output.name for output in answer.infer_response.outputs]
        if self._layout.tokens in names:
            self._place = (len(names), names.index(self._layout.tokens))
        return tokens

    def delta(self, event: bytes, at_s: float, so_far: int) -> Delta:
        answer = self._parse(event)
        if answer.error_message:
            raise server_said(answer.error_message, so_far)
        response = answer.infer_response
        try:
            outputs = outputs_of(response)
        except ValueError as error:
            raise RequestError(
                "garbage", f"the server sent a broken tensor: {error}", tokens=so_far, expected="KServe tensors"
            ) from None
        self.ended = response.parameters["triton_final_response"].bool_param
        return self._decoder.decode(outputs, at_s, final=self.ended)


def parse(event: bytes, so_far: int) -> dict[str, Any]:
    """The JSON object of an event; RequestError when it is none, or an error."""
    try:
        document = json.loads(event)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RequestError(
            "garbage", f"the server sent {event[:80]!r}", tokens=so_far, expected="a JSON object per event"
        )
    if document.get("error"):
        raise server_said(words_of(document["error"]), so_far)
    return document


def words_of(error: object) -> str:
    """Triton sends a string, OpenAI's interface an object with a message."""
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _triton_outputs(document: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: value if isinstance(value, list) else [value] for name, value in document.items()}
