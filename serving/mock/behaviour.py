"""What the mock does with a request: lengths, times and faults, all drawn from the seed and the request itself."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields

from trtllm_kit.errors import UsageError

_WORDS = ("the", "of", "tokenization", "a", "internationalisation", "in", "unquestionably", "on", "antidisestablish")
_SPLIT_WORDS = ("naïve", "日本", "🙂", "über")  # characters of two, three and four bytes


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Times in milliseconds; rates are shares of all requests, and at most one fault befalls a request."""

    ttft_ms: float = 100.0
    ttft_per_input_token_ms: float = 0.0  # prefill
    itl_ms: float = 20.0
    jitter: float = 0.0  # standard deviation of each wait, as a share of it
    tokens_per_chunk: int = 1
    slots: int = 0  # requests served at once, others wait in a queue; 0: no limit
    split_utf8: bool = False  # non-ASCII text, and each character of it cut in two by the network
    refuse_rate: float = 0.0  # an HTTP error status, or a gRPC error, instead of an answer
    hidden_error_rate: float = 0.0  # an error as the only event inside an HTTP 200
    late_error_rate: float = 0.0  # an error after some tokens
    cut_rate: float = 0.0  # the connection ends after some tokens
    garbage_rate: float = 0.0  # bytes that are no answer, after some tokens
    stall_rate: float = 0.0  # a pause of stall_ms between two tokens, then all goes on
    stall_ms: float = 1000.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if float(getattr(self, field.name)) < 0:
                raise UsageError(f"{field.name} is negative", expected="a number from 0 up")
        if sum(self.rates().values()) > 1:
            raise UsageError("the rates of all faults add up to more than 1", expected="shares of all requests")
        if self.tokens_per_chunk < 1:
            raise UsageError("tokens_per_chunk is 0", expected="1 or more")

    def rates(self) -> Mapping[str, float]:
        """Fault → its rate, in a fixed order."""
        return {
            field.name.removesuffix("_rate"): getattr(self, field.name)
            for field in fields(self)
            if field.name.endswith("_rate")
        }


@dataclass(frozen=True, slots=True)
class Chunk:
    """One response: seconds after the request was taken up, tokens, and their text."""

    due_s: float
    tokens: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that one request will see. A fault after some tokens comes in place of chunk number `fault_at`."""

    chunks: tuple[Chunk, ...]
    fault: str | None
    fault_at: int


def draw_plan(behaviour: Behaviour, *, prompt: str, input_tokens: int, tokens: int, nth: int) -> Plan:
    """The plan of the `nth` request with this prompt: the same whatever else is asked at the same time."""
    draw = random.Random(f"{behaviour.seed}/{nth}/{prompt}")
    fault = _fault(behaviour, draw.random())
    sizes = [behaviour.tokens_per_chunk] * (tokens // behaviour.tokens_per_chunk)
    sizes += [rest] if (rest := tokens % behaviour.tokens_per_chunk) else []
    fault_at = draw.randrange(1, max(len(sizes), 2))
    waits_ms = [behaviour.ttft_ms + behaviour.ttft_per_input_token_ms * input_tokens]
    waits_ms += [behaviour.itl_ms * size for size in sizes[1:]]
    if behaviour.jitter:
        waits_ms = [max(0.0, draw.gauss(wait, behaviour.jitter * wait)) for wait in waits_ms]
    if fault == "stall" and len(sizes) > 1:
        waits_ms[fault_at] += behaviour.stall_ms
    words = _SPLIT_WORDS if behaviour.split_utf8 else _WORDS
    said = random.Random(f"{behaviour.seed}/text/{prompt}")  # greedy: the same prompt always gets the same text
    spoken = (f" {words[said.randrange(len(words))]}" for _ in itertools.count())
    chunks = tuple(
        Chunk(due_ms / 1e3, size, "".join(itertools.islice(spoken, size)))
        for due_ms, size in zip(itertools.accumulate(waits_ms), sizes, strict=False)
    )
    return Plan(chunks=chunks, fault=fault, fault_at=fault_at)


def _fault(behaviour: Behaviour, drawn: float) -> str | None:
    for name, rate in behaviour.rates().items():
        if drawn < rate:
            return name
        drawn -= rate
    return None
