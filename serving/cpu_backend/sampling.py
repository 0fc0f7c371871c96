"""A request in the words of OpenVINO GenAI, and the ends of a generation that the library does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.cpu_backend.request import GenerationRequest, Words

_NO_TOP_K = 2**31 - 1


def generation_config(request: GenerationRequest) -> Any:
    """`openvino_genai.GenerationConfig` for a request that was checked."""
    from openvino_genai import GenerationConfig

    config = GenerationConfig()
    config.max_new_tokens = request.max_tokens
    config.repetition_penalty = request.repetition_penalty
    config.logprobs = int(request.log_probs)
    _set_end(config, request)
    config.do_sample = not request.greedy
    if config.do_sample:
        config.temperature = request.temperature
        config.top_k = request.top_k or _NO_TOP_K
        config.top_p = 1.0 if request.top_p is None else request.top_p
        config.rng_seed = request.seed
    return config


def _set_end(config: Any, request: GenerationRequest) -> None:
    ends = library_ends(request)
    config.ignore_eos = not ends
    # The library wants an end token even where it is to be ignored.
    config.set_eos_token_id(ends[0] if ends else 0)
    config.stop_token_ids = set(ends) or {0}
    if request.end_id is not None:
        config.min_new_tokens = request.min_tokens


def library_ends(request: GenerationRequest) -> list[int]:
    """Single tokens at which the library itself ends the request.

    With `min_tokens` the library would suppress every one of them, but only `end_id` is to be suppressed.
    """
    ends = [] if request.end_id is None else [request.end_id]
    if request.min_tokens == 0:
        ends += [word[0] for word in request.stop_words if len(word) == 1]
    return ends


def watched_words(request: GenerationRequest) -> Words:
    """The stop words that the library cannot see and that the driver must look for after each step."""
    if request.min_tokens:
        return request.stop_words
    return tuple(word for word in request.stop_words if len(word) > 1)


def first_stop(tokens: Sequence[int], words: Words, start: int) -> int | None:
    """How many of `tokens` to keep so that they end with the first stop word that ends after position `start`."""
    for end in range(start + 1, len(tokens) + 1):
        if any(end >= len(word) and tuple(tokens[end - len(word) : end]) == word for word in words):
            return end
    return None
