"""The tensors of a Triton request as a `GenerationRequest`, by the names of the engine layout's contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serving.cpu_backend.request import GenerationRequest, RequestError, Words

Tensors = Mapping[str, Any]
"""Input name → numpy array; the first dimension is the batch."""

_UNSUPPORTED = {
    "encoder_input_features": "encoders",
    "cross_attention_mask": "encoders",
    "draft_input_ids": "draft tokens",
    "draft_logits": "draft tokens",
    "embedding_bias": "embedding bias",
    "return_context_logits": "returning logits",
    "return_generation_logits": "returning logits",
    "return_perf_metrics": "performance metrics of a request",
    "prompt_embedding_table": "prompt tuning",
    "prompt_table_extra_ids": "prompt tuning",
    "prompt_vocab_size": "prompt tuning",
    "mrope_rotary_cos_sin": "multimodal rotary embedding",
    "mrope_position_deltas": "multimodal rotary embedding",
    "lora_task_id": "LoRA",
    "lora_weights": "LoRA",
    "lora_config": "LoRA",
    "context_phase_params": "disaggregated serving",
    "retention_token_range_starts": "KV cache retention",
    "retention_token_range_ends": "KV cache retention",
    "retention_token_range_priorities": "KV cache retention",
    "retention_decode_priority": "KV cache retention",
    "guided_decoding_guide_type": "guided decoding",
    "guided_decoding_guide": "guided decoding",
    "lookahead_window_size": "lookahead decoding",
    "lookahead_ngram_size": "lookahead decoding",
    "lookahead_verification_set_size": "lookahead decoding",
}

# GenerationRequest's field → (input, conversion). An input that is absent leaves the field's default.
_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "max_tokens": ("request_output_len", int),
    "end_id": ("end_id", lambda value: None if int(value) < 0 else int(value)),
    "temperature": ("temperature", float),
    "top_k": ("runtime_top_k", int),
    # Upstream too reads 0 and less as "not set".
    "top_p": ("runtime_top_p", lambda value: None if float(value) <= 0 else float(value)),
    "seed": ("seed", int),
    "repetition_penalty": ("repetition_penalty", float),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
    "min_tokens": ("min_tokens", int),
    "beam_width": ("beam_width", int),
    "num_return_sequences": ("num_return_sequences", int),
    "log_probs": ("return_log_probs", bool),
    "streaming": ("streaming", bool),
}

# Names of TensorRT-LLM up to 0.19.
_OLD_NAMES = {"random_seed": "seed", "min_length": "min_tokens"}


def generation_request(tensors: Tensors) -> GenerationRequest:
    """The request that `tensors` describe; RequestError for what the cpu runtime would have to ignore."""
    tensors = {_OLD_NAMES.get(name, name): value for name, value in tensors.items()}
    _refuse_unsupported(tensors)
    fields = {
        field: convert(tensors[name].flat[0])
        for field, (name, convert) in _FIELDS.items()
        if name in tensors and tensors[name].size
    }
    if "max_tokens" not in fields:
        raise RequestError("request_output_len is missing", expected="the number of new tokens", fix="send it")
    return GenerationRequest(
        input_ids=_prompt(tensors),
        stop_words=_words(tensors, "stop_words_list"),
        bad_words=_words(tensors, "bad_words_list"),
        **fields,
    )


def flag(tensors: Tensors, name: str, default: bool = False) -> bool:
    """A boolean input of one element."""
    value = tensors.get(name)
    return default if value is None or not value.size else bool(value.flat[0])


def _refuse_unsupported(tensors: Tensors) -> None:
    for name, value in tensors.items():
        feature = _UNSUPPORTED.get(name)
        if feature is not None and value.size and value.any():
            raise RequestError(
                f"the cpu runtime does not offer {feature} ({name})", expected="no such input", fix=f"leave {name} out"
            )
    decay = tensors.get("runtime_top_p_decay")
    if decay is not None and decay.size and float(decay.flat[0]) != 1.0:
        raise RequestError(
            "the cpu runtime does not offer a decaying top_p (runtime_top_p_decay)",
            expected="no such input, or 1",
            fix="leave runtime_top_p_decay out",
        )


def _prompt(tensors: Tensors) -> list[int]:
    ids = tensors.get("input_ids")
    if ids is None:
        raise RequestError("input_ids is missing", expected="the prompt's token ids", fix="send it")
    if ids.ndim > 1 and ids.shape[0] > 1:
        raise RequestError(
            f"the request holds a batch of {ids.shape[0]} prompts",
            expected="one prompt a request; the engine batches requests while they run",
            fix="send each prompt in a request of its own",
        )
    ids = ids.reshape(-1)
    lengths = tensors.get("input_lengths")
    length = ids.size if lengths is None or not lengths.size else int(lengths.flat[0])
    if not 0 <= length <= ids.size:
        raise RequestError(
            f"input_lengths is {length}, but input_ids holds {ids.size} tokens",
            expected=f"0 to {ids.size}",
            fix="send the number of tokens in input_ids",
        )
    return list(ids[:length].tolist())


def _words(tensors: Tensors, name: str) -> Words:
    """Words from INT32 [1, 2, n]: row 0 the concatenated ids, row 1 the end of each word, padded with -1."""
    value = tensors.get(name)
    if value is None or not value.size:
        return ()
    if value.ndim < 2 or value.shape[-2] != 2 or value.size != 2 * value.shape[-1]:
        raise RequestError(
            f"{name} has the shape {list(value.shape)}",
            expected="[1, 2, n]: ids, and where each word ends",
            fix="send what the preprocessing model makes of the words",
        )
    ids, ends = value.reshape(2, -1).tolist()
    ends = [end for end in ends if end > 0]
    if any(end > len(ids) for end in ends) or ends != sorted(ends):
        raise RequestError(
            f"{name} names word ends {ends} in {len(ids)} ids",
            expected="ascending ends within the ids",
            fix="send what the preprocessing model makes of the words",
        )
    return tuple(tuple(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False))
