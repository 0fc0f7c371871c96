"""Triton tensors to and from the words of tensorrt_llm.LLM, without importing it."""

import numpy as np
import triton_python_backend_utils as pb_utils

SAMPLING = ("best_of", "temperature", "top_k", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "seed")
"""Numbers of SamplingParams, in requests under `sampling_param_<name>`."""
SAMPLING_FLAGS = ("return_perf_metrics",)
ON_REQUEST = {"finish_reason": np.object_, "stop_reason": np.object_, "cumulative_logprob": np.float32}
"""Outputs that a request asks for with `return_<name>`, one value for each generated sequence."""
KV_METRICS = {
    "kv_cache_reused_block": ("num_reused_blocks", np.int32),
    "kv_cache_missed_block": ("num_missed_blocks", np.int32),
    "kv_cache_alloc_new_blocks": ("num_new_allocated_blocks", np.int32),
    "kv_cache_alloc_total_blocks": ("num_total_allocated_blocks", np.int32),
    "kv_cache_hit_rate": ("kv_cache_hit_rate", np.float32),
}
TIMING_METRICS = {
    "arrival_time_ns": "arrival_time",
    "first_scheduled_time_ns": "first_scheduled_time",
    "first_token_time_ns": "first_token_time",
    "last_token_time_ns": "last_token_time",
}
SPECULATIVE_METRICS = {
    "acceptance_rate": np.float32,
    "total_accepted_draft_tokens": np.int32,
    "total_draft_tokens": np.int32,
}


class RequestError(ValueError):
    """A request that the model cannot serve."""


def values(request, name):
    """All values of an input in a flat list; empty when it is absent."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else tensor.as_numpy().reshape(-1).tolist()


def scalar(request, name, default=None):
    found = values(request, name)
    if len(found) > 1:
        raise RequestError(f"{name} must have one value, it has {len(found)}")
    return found[0] if found else default


def text(raw, name):
    try:
        return raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from None


def prompt(request):
    found = values(request, "text_input")
    if len(found) != 1:
        raise RequestError(f"text_input must hold one prompt, it holds {len(found)}")
    if values(request, "image_url"):
        raise RequestError("image_url was sent, but this deployment serves text only")
    return text(found[0], "text_input")


def sampling_arguments(request):
    """Keyword arguments of SamplingParams: only what the request says, the library's own defaults for the rest."""
    given = {name: scalar(request, f"sampling_param_{name}") for name in (*SAMPLING, *SAMPLING_FLAGS)}
    arguments = {name: value for name, value in given.items() if value is not None}
    if arguments.get("max_tokens", 1) < 1:
        raise RequestError(f"sampling_param_max_tokens must be at least 1, got {arguments['max_tokens']}")
    stop = [text(raw, "sampling_param_stop") for raw in values(request, "sampling_param_stop")]
    return {**arguments, "stop": stop} if stop else arguments


def lora_arguments(request):
    """Keyword arguments of LoRARequest, or None."""
    given = {name: scalar(request, f"lora_{name}") for name in ("id", "name", "path")}
    if all(value is None for value in given.values()):
        return None
    if any(value is None for value in given.values()):
        raise RequestError("lora_id, lora_name and lora_path belong together; some are missing")
    return {
        "lora_int_id": int(given["id"]),
        "lora_name": text(given["name"], "lora_name"),
        "lora_path": text(given["path"], "lora_path"),
        "lora_ckpt_source": text(scalar(request, "lora_ckpt_source", "hf"), "lora_ckpt_source"),
    }


def wanted_outputs(request):
    return [name for name in ON_REQUEST if scalar(request, f"return_{name}", False)]


def response(generated, wanted, prefix):
    """Triton's response for one state of a request: `text_output` is all text so far, one for each sequence."""
    outputs = generated.outputs
    texts = [(prefix + output.text).encode("utf-8") for output in outputs]
    tensors = [pb_utils.Tensor("text_output", np.array(texts, dtype=np.object_))]
    for name in wanted:
        found = [getattr(output, name) for output in outputs]
        kind = ON_REQUEST[name]
        found = [str(value).encode("utf-8") for value in found] if kind is np.object_ else found
        tensors.append(pb_utils.Tensor(name, np.array(found, dtype=kind)))
    metrics = getattr(outputs[0], "request_perf_metrics", None)
    return pb_utils.InferenceResponse(tensors + (_metric_tensors(metrics) if metrics else []))


def _metric_tensors(metrics):
    cache, timing, speculative = metrics.kv_cache_metrics, metrics.timing_metrics, metrics.speculative_decoding
    rows = [(name, getattr(cache, field), kind) for name, (field, kind) in KV_METRICS.items()]
    rows += [(name, _nanoseconds(getattr(timing, field)), np.int64) for name, field in TIMING_METRICS.items()]
    rows += [(name, getattr(speculative, name), kind) for name, kind in SPECULATIVE_METRICS.items()]
    return [pb_utils.Tensor(name, np.array([value], dtype=kind)) for name, value, kind in rows]


def _nanoseconds(duration):
    """The library gives a timedelta since the clock's start; whole microseconds, so nothing is lost in between."""
    return ((duration.days * 86400 + duration.seconds) * 1_000_000 + duration.microseconds) * 1000
