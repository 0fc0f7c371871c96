"""`model.yaml` of the llmapi layout: only fields that old and new releases of `tensorrt_llm.LLM` share.

All of its argument classes forbid unknown keys, so one field that a release dropped would keep the server from
starting.
"""

from __future__ import annotations

from typing import Any

from builder.plan import BuildPlan
from serving.render.parameters import placed


def llm_args(plan: BuildPlan) -> dict[str, Any]:
    """Keyword arguments of LLM; a nested dict for each configuration class."""
    build, cache, serving = plan.build, plan.kv_cache, plan.serving
    pool: dict[str, Any] = {
        "enable_block_reuse": cache.enable_block_reuse,
        "free_gpu_memory_fraction": cache.free_gpu_memory_fraction,
        "dtype": cache.dtype,
        "tokens_per_block": build.tokens_per_block,
    }
    if cache.max_tokens is not None:
        pool["max_tokens"] = cache.max_tokens
    return {
        "model": placed(serving.root, "engine"),
        "tokenizer": placed(serving.root, "tokenizer"),
        "backend": "pytorch",
        "trust_remote_code": plan.trust_remote_code,
        "tensor_parallel_size": plan.tp_size,
        "pipeline_parallel_size": plan.pp_size,
        "max_batch_size": build.max_batch_size,
        "max_num_tokens": build.max_num_tokens,
        "max_seq_len": build.max_seq_len,
        "max_beam_width": build.max_beam_width,
        "enable_chunked_prefill": serving.enable_chunked_context,
        "kv_cache_config": pool,
        "scheduler_config": {"capacity_scheduler_policy": serving.batch_scheduler_policy.upper()},
        "cuda_graph_config": {"max_batch_size": build.max_batch_size, "enable_padding": True},
    }


def triton_config(plan: BuildPlan) -> dict[str, Any]:
    """What the model tells Triton when configuration is auto-completed; `config.pbtxt` says the same."""
    return {"max_batch_size": 0, "decoupled": plan.serving.decoupled_mode, "cancellation_check_period_ms": 100}
