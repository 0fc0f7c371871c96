"""One generation request, and every reason to refuse it before it reaches the engine.

The engine library checks little: a request that cannot ever fit drags innocent neighbours down with it, and an id out
of the vocabulary reads another row of memory. So nothing passes that was not checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from builder.compile.openvino_ir.settings import CpuEngineSettings
from trtllm_kit.errors import UsageError

Words = tuple[tuple[int, ...], ...]


class RequestError(UsageError):
    """A request that the engine cannot serve; nothing of it was started."""


class QueueFullError(RequestError):
    """As many requests wait as may wait; a later try may succeed."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What to generate. Defaults are those of TensorRT-LLM: greedy unless top_k or top_p asks for sampling."""

    input_ids: Sequence[int]
    max_tokens: int  # new tokens
    end_id: int | None = None  # ends the output and is not part of it; None: only the other limits end it
    stop_words: Words = ()  # token sequences; the first to appear ends the output and is part of it
    bad_words: Words = ()
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0: no limit; 1: greedy
    top_p: float | None = None  # in (0, 1]; None: no limit
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0  # new tokens before end_id may appear
    beam_width: int = 1
    num_return_sequences: int = 1
    log_probs: bool = False
    streaming: bool = False  # deliver tokens step by step instead of all at the end

    total_tokens: int = field(init=False)  # the longest that prompt and output can get

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_tokens", len(self.input_ids) + self.max_tokens)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.top_k == 1 or self.temperature == 0 or (self.top_k == 0 and self.top_p is None)


def check_request(request: GenerationRequest, settings: CpuEngineSettings) -> None:
    """RequestError for the first rule that `request` breaks."""
    for broken, explain in _RULES:
        if broken(request, settings):
            happened, expected, fix = explain(request, settings)
            raise RequestError(happened, expected=expected, fix=fix)


def _alien(ids: Sequence[int], settings: CpuEngineSettings) -> bool:
    return bool(len(ids)) and not 0 <= min(ids) <= max(ids) < settings.vocab_size


def _aliens_in_words(request: GenerationRequest, settings: CpuEngineSettings) -> bool:
    return any(not word or _alien(word, settings) for word in request.stop_words)


def _bad_end(request: GenerationRequest, settings: CpuEngineSettings) -> bool:
    return request.end_id is not None and _alien((request.end_id,), settings)


Check = Callable[[GenerationRequest, CpuEngineSettings], bool]
Explain = Callable[[GenerationRequest, CpuEngineSettings], tuple[str, str, str]]

_RULES: tuple[tuple[Check, Explain], ...] = (
    (
        lambda r, s: len(r.input_ids) == 0,
        lambda r, s: ("the prompt is empty", "at least one token", "send a prompt; a chat template or BOS adds tokens"),
    ),
    (
        lambda r, s: r.max_tokens <= 0,
        lambda r, s: (f"max_tokens (request_output_len) is {r.max_tokens}", "at least 1", "ask for 1 token or more"),
    ),
    (
        lambda r, s: r.total_tokens > s.max_seq_len,
        lambda r, s: (
            f"prompt of {len(r.input_ids)} tokens + max_tokens {r.max_tokens} exceeds max_seq_len {s.max_seq_len}",
            f"at most {s.max_seq_len} tokens together",
            "shorten the prompt or lower max_tokens; or build with a larger build.max_seq_len",
        ),
    ),
    (
        lambda r, s: r.total_tokens > s.kv_capacity_tokens,
        lambda r, s: (
            f"prompt of {len(r.input_ids)} tokens + max_tokens {r.max_tokens} exceeds the KV cache's capacity of "
            f"{s.kv_capacity_tokens} tokens",
            f"at most {s.kv_capacity_tokens} tokens together",
            "shorten the prompt or lower max_tokens; or build with a larger kv_cache.max_tokens",
        ),
    ),
    (
        lambda r, s: _alien(r.input_ids, s),
        lambda r, s: (
            "input_ids holds a token id outside the vocabulary",
            f"ids from 0 to {s.vocab_size - 1}",
            "use the tokenizer of this model",
        ),
    ),
    (
        _aliens_in_words,
        lambda r, s: (
            "stop_words holds an empty word or a token id outside the vocabulary",
            f"ids from 0 to {s.vocab_size - 1}",
            "use the tokenizer of this model",
        ),
    ),
    (
        _bad_end,
        lambda r, s: (
            f"end_id {r.end_id} is outside the vocabulary",
            f"an id from 0 to {s.vocab_size - 1}, or none (-1) to generate without an end token",
            "use the tokenizer of this model",
        ),
    ),
    (
        lambda r, s: bool(r.bad_words),
        lambda r, s: ("the cpu runtime cannot keep bad words out", "no bad_words", "remove bad_words"),
    ),
    (
        lambda r, s: r.top_p is not None and not 0 < r.top_p <= 1,
        lambda r, s: (f"top_p is {r.top_p}", "above 0 and at most 1", "set top_p to 1, or leave it out"),
    ),
    (
        lambda r, s: not 0 <= r.temperature < float("inf"),
        lambda r, s: (f"temperature is {r.temperature}", "0 (greedy) or more", "set temperature to 1, or leave it out"),
    ),
    (
        lambda r, s: r.top_k < 0,
        lambda r, s: (f"top_k is {r.top_k}", "0 (no limit) or more", "set top_k to 0, or leave it out"),
    ),
    (
        lambda r, s: not 0 < r.repetition_penalty < float("inf"),
        lambda r, s: (f"repetition_penalty is {r.repetition_penalty}", "above 0", "set repetition_penalty to 1"),
    ),
    (
        # The library subtracts these from positive scores and adds them to negative ones, which rewards repetition.
        lambda r, s: r.presence_penalty != 0 or r.frequency_penalty != 0,
        lambda r, s: (
            f"presence_penalty is {r.presence_penalty}, frequency_penalty is {r.frequency_penalty}",
            "0 and 0: the cpu runtime's library applies them with the wrong sign to negative logits",
            "leave both out, or use repetition_penalty",
        ),
    ),
    (
        lambda r, s: not 0 <= r.min_tokens <= r.max_tokens,
        lambda r, s: (f"min_tokens is {r.min_tokens}", f"from 0 to max_tokens ({r.max_tokens})", "lower min_tokens"),
    ),
    (
        lambda r, s: r.beam_width != 1 or r.num_return_sequences != 1,
        lambda r, s: (
            f"beam_width is {r.beam_width}, num_return_sequences is {r.num_return_sequences}",
            "1 and 1: the cpu runtime has no beam search and returns one sequence",
            "leave both out",
        ),
    ),
    (
        lambda r, s: not 0 <= r.seed < 2**64,
        lambda r, s: (f"seed is {r.seed}", "an unsigned 64-bit number", "use a smaller seed"),
    ),
)
