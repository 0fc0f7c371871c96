"""Rules between how an engine was built and how it is served: refused here, before a server finds out at start-up."""

from __future__ import annotations

from builder.plan import BuildPlan
from trtllm_kit.errors import SpecError


def check_engine_rules(plan: BuildPlan) -> None:
    """In-flight batching needs a paged cache, block reuse and chunked context paged attention, and sizes must fit."""
    build, cache, serving = plan.build, plan.kv_cache, plan.serving
    if build.kv_cache_type != "paged":
        raise SpecError(
            f"the engine has kv_cache_type {build.kv_cache_type}, and in-flight batching would not start",
            expected="build.kv_cache_type: paged",
            fix="set it in the spec and build the engine again",
        )
    _needs_paged_context(plan, cache.enable_block_reuse, "kv_cache.enable_block_reuse")
    _needs_paged_context(plan, serving.enable_chunked_context, "serving.enable_chunked_context")
    _check_batch_size(plan)
    _check_pool(plan)
    if build.speculative_decoding_mode == "lookahead_decoding":
        raise SpecError(
            "lookahead decoding needs window, n-gram and verification sizes at the server; a spec holds none",
            expected="a speculative_decoding_mode that serves without them",
            fix="set build.speculative_decoding_mode to null, medusa, explicit_draft_tokens or eagle",
        )


def check_llmapi_rules(plan: BuildPlan) -> None:
    """The llmapi model takes one prompt a request, so only the cache pool is left to check."""
    _check_pool(plan)


def _needs_paged_context(plan: BuildPlan, wanted: bool, key: str) -> None:
    if wanted and plan.build.use_paged_context_fmha != "enable":
        raise SpecError(
            f"{key} is on, but the engine is built with use_paged_context_fmha {plan.build.use_paged_context_fmha}",
            expected="build.use_paged_context_fmha: enable (the build flag --use_paged_context_fmha)",
            fix=f"enable that flag and build again, or set {key} to false",
        )


def _check_batch_size(plan: BuildPlan) -> None:
    if plan.serving.triton_max_batch_size > plan.build.max_batch_size:
        raise SpecError(
            f"serving.triton_max_batch_size {plan.serving.triton_max_batch_size} is more than the engine's"
            f" max_batch_size {plan.build.max_batch_size}",
            expected="at most the engine's own batch",
            fix="lower serving.triton_max_batch_size, or raise build.max_batch_size and build again",
        )


def _check_pool(plan: BuildPlan) -> None:
    tokens = plan.kv_cache.max_tokens
    if tokens is not None and tokens < plan.build.max_seq_len:
        raise SpecError(
            f"kv_cache.max_tokens {tokens} cannot hold one sequence of build.max_seq_len {plan.build.max_seq_len}",
            expected="a pool of at least max_seq_len tokens",
            fix="raise kv_cache.max_tokens, set it to null, or lower build.max_seq_len",
        )
