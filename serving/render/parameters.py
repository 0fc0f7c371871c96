"""`parameters` of each engine model: every key that the release's contract names, each with a value.

Upstream reads a value that it cannot parse (an empty string among them) as "use the default", so an empty string is how
a key that must exist is left alone. Values are upstream's spellings: `true`/`false`, plain decimals.
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.plan import BuildPlan
from profiles.triton_contract import Contract

EXECUTOR_WORKER = "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"

DECODING_MODES = {"medusa": "medusa", "explicit_draft_tokens": "redrafter", "eagle": "eagle"}
"""`speculative_decoding_mode` of the build -> `decoding_mode` of the server; drafts from outside need none."""

BLS_OWN = ("tokenizer_dir", "skip_special_tokens")
"""Keys beyond the contract that our BLS model reads: it decodes in its own process, not by a request for each token."""


def engine_parameters(plan: BuildPlan, contract: Contract) -> dict[str, dict[str, str]]:
    """Model -> key -> value, in the contract's order."""
    tables: dict[str, Mapping[str, str]] = {
        "preprocessing": _preprocessing(plan),
        "tensorrt_llm": _tensorrt_llm(plan),
        "postprocessing": _postprocessing(plan),
        "tensorrt_llm_bls": _bls(plan),
        "ensemble": {},
    }
    own = {"tensorrt_llm_bls": BLS_OWN}
    return {
        model: {key: tables[model].get(key, "") for key in (*rows.parameters, *own.get(model, ()))}
        for model, rows in contract.items()
    }


def placed(root: str, name: str) -> str:
    """`engine` or `tokenizer` below `serving.root`; relative to the artifact when there is none."""
    return f"{root.rstrip('/')}/{name}" if root else name


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _preprocessing(plan: BuildPlan) -> dict[str, str]:
    return {
        "tokenizer_dir": placed(plan.serving.root, "tokenizer"),
        "add_special_tokens": _flag(plan.serving.add_special_tokens),
        "gpt_model_path": placed(plan.serving.root, "engine"),
    }


def _postprocessing(plan: BuildPlan) -> dict[str, str]:
    return {
        "tokenizer_dir": placed(plan.serving.root, "tokenizer"),
        "skip_special_tokens": _flag(plan.serving.skip_special_tokens),
    }


def _bls(plan: BuildPlan) -> dict[str, str]:
    return {
        "accumulate_tokens": _flag(plan.serving.accumulate_tokens),
        "tensorrt_llm_model_name": "tensorrt_llm",
        **_postprocessing(plan),
    }


def _tensorrt_llm(plan: BuildPlan) -> dict[str, str]:
    build, cache, serving = plan.build, plan.kv_cache, plan.serving
    return {
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": placed(serving.root, "engine"),
        "tokenizer_dir": placed(serving.root, "tokenizer"),
        "executor_worker_path": EXECUTOR_WORKER,
        "max_beam_width": str(build.max_beam_width),
        "decoding_mode": _decoding_mode(build.speculative_decoding_mode, build.max_beam_width),
        "batch_scheduler_policy": serving.batch_scheduler_policy,
        "kv_cache_free_gpu_mem_fraction": str(cache.free_gpu_memory_fraction),
        "max_tokens_in_paged_kv_cache": "" if cache.max_tokens is None else str(cache.max_tokens),
        "max_attention_window_size": _attention_window(plan),
        "kv_cache_host_memory_bytes": "0",
        "enable_kv_cache_reuse": _flag(cache.enable_block_reuse),
        "enable_chunked_context": _flag(serving.enable_chunked_context),
        "exclude_input_in_output": _flag(serving.exclude_input_in_output),
        "normalize_log_probs": "true",
        "cancellation_check_period_ms": "100",
        "stats_check_period_ms": "100",
        "iter_stats_max_iterations": "1000",
        "request_stats_max_iterations": "0",
        "num_nodes": "1",
        "gpu_weights_percent": "1.0",
        "multi_block_mode": "true",
        "enable_context_fmha_fp32_acc": "false",
        "cuda_graph_mode": "false",
        "cuda_graph_cache_size": "0",
        "speculative_decoding_fast_logits": "false",
    }


def _decoding_mode(speculative: str | None, max_beam_width: int) -> str:
    if speculative in DECODING_MODES:
        return DECODING_MODES[speculative]
    return "top_k_top_p" if max_beam_width == 1 else "beam_search"


def _attention_window(plan: BuildPlan) -> str:
    """One number for each layer where windows slide; upstream repeats the list, so a cycle or one number is enough.

    Empty where no window is shorter than a sequence. On the cpu the window is in the engine itself.
    """
    config, whole = plan.checkpoint.config, plan.build.max_seq_len
    windows = [min(config.window(layer) or whole, whole) for layer in range(config.num_hidden_layers)]
    if plan.runtime == "cpu" or set(windows) == {whole}:
        return ""
    return ",".join(map(str, windows if len(set(windows)) > 1 else windows[:1]))
