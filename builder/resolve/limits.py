"""How large: the engine's limits, the build flags that follow from them, and the KV cache."""

from __future__ import annotations

from typing import Any

from builder.checkpoint import Checkpoint
from builder.plan import BuildFlags, KvCache
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Scheme
from builder.resolve.choices import Choices
from builder.resolve.memory import safe_batch, safe_num_tokens
from profiles import precisions
from profiles.ledger import Placement
from trtllm_kit.spec import KvCacheSpec, Runtime, Spec

_CPU_KV_BYTES = 1 << 30
_CPU_KV_BLOCK_TOKENS = 32
_DEFAULT_MAX_SEQ_LEN = 8192
_FUSED_MLP = (None, "FP8", "MIXED_PRECISION")


def choose_max_seq_len(spec: Spec, checkpoint: Checkpoint, choices: Choices) -> int:
    """Tokens of the longest sequence, prompt and answer together."""
    limit = checkpoint.config.max_position_embeddings
    whole = f"the model's {limit} positions"
    capped = f"the model could do {limit}, yet each sequence that long takes KV cache from others; raise it if needed"
    default = min(limit, _DEFAULT_MAX_SEQ_LEN)
    return choices.take("build.max_seq_len", spec.build.max_seq_len, default, whole if default == limit else capped)


def choose_build_flags(spec: Spec, runtime: Runtime, recipe: Recipe, place: Placement, choices: Choices) -> BuildFlags:
    written, max_seq_len, known = spec.build, place.limits.max_seq_len, place.sku.memory_bytes is not None
    tokens, why_tokens = safe_num_tokens(place) if known else (512, "one CPU step stays short enough to stream")
    step_tokens = tokens if written.max_num_tokens == "auto" else written.max_num_tokens
    batch, why = safe_batch(place.with_limits(max_num_tokens=step_tokens)) if known else (32, "what a CPU keeps busy")
    max_batch_size = choices.take("build.max_batch_size", written.max_batch_size, batch, why)
    algorithm, schemes = precisions.find(recipe.precision).quant_algo, recipe.schemes()
    fp8_math = all(scheme.fp8_math for scheme in schemes)
    profiles_on = choices.take(
        "build.multiple_profiles",
        written.multiple_profiles,
        "enable" if runtime == "tensorrt" else "disable",
        "upstream's tuning guide: more profiles, better kernels, longer build",
    )
    opt_num_tokens = choices.take(
        "build.opt_num_tokens",
        written.opt_num_tokens,
        None,
        "multiple_profiles chooses its own" if profiles_on == "enable" else "left to upstream: max_batch_size × beams",
    )
    decided: dict[str, Any] = {
        "max_batch_size": max_batch_size,
        "max_seq_len": max_seq_len,
        "max_input_len": choices.take(
            "build.max_input_len", written.max_input_len, max_seq_len, "packed input: only max_seq_len limits a prompt"
        ),
        "max_num_tokens": choices.take(
            "build.max_num_tokens",
            written.max_num_tokens,
            min(tokens, max_seq_len * max_batch_size),
            why_tokens,
        ),
        "opt_num_tokens": opt_num_tokens,
        "multiple_profiles": profiles_on,
        "use_fp8_context_fmha": choices.take(
            "build.use_fp8_context_fmha",
            written.use_fp8_context_fmha,
            "enable" if fp8_math and spec.kv_cache.dtype == "fp8" else "disable",
            "only FP8 math with an FP8 KV cache has it",
        ),
        "use_fused_mlp": choices.take(
            "build.use_fused_mlp",
            written.use_fused_mlp,
            "enable" if algorithm in _FUSED_MLP else "disable",
            "upstream fuses the gated MLP of unquantized and FP8 layers only",
        ),
        "gemm_plugin": choices.take(
            "build.gemm_plugin",
            written.gemm_plugin,
            _gemm_plugin(schemes),
            "upstream's tuning guide",
        ),
        "workers": choices.take("build.workers", written.workers, place.tp_size * place.pp_size, "one for each rank"),
    }
    return BuildFlags(**{**written.model_dump(), **decided})


def choose_kv_cache(
    spec: Spec, checkpoint: Checkpoint, runtime: Runtime, build: BuildFlags, choices: Choices
) -> KvCache:
    written = spec.kv_cache
    paged = build.use_paged_context_fmha == "enable" and build.kv_cache_type == "paged"
    return KvCache(
        dtype=written.dtype,
        free_gpu_memory_fraction=choices.take(
            "kv_cache.free_gpu_memory_fraction",
            written.free_gpu_memory_fraction,
            0.9,
            "one engine has the GPU to itself",
        ),
        enable_block_reuse=choices.take(
            "kv_cache.enable_block_reuse",
            written.enable_block_reuse,
            paged,
            "paged context FMHA is on, so shared prefixes cost nothing" if paged else "it needs use_paged_context_fmha",
        ),
        max_tokens=_kv_tokens(written.max_tokens, checkpoint, build, choices)
        if runtime == "cpu"
        else _gpu_tokens(written),
    )


def _gpu_tokens(written: KvCacheSpec) -> int | None:
    return None if written.max_tokens == "auto" else written.max_tokens


def _kv_tokens(written: Any, checkpoint: Checkpoint, build: BuildFlags, choices: Choices) -> int:
    """As many tokens as full batches need, at most 1 GiB of float32 keys and values, never less than one sequence."""
    config = checkpoint.config
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_size * 4
    wanted = min(build.max_batch_size * build.max_seq_len, _CPU_KV_BYTES // token_bytes)
    blocks = -(-max(wanted, build.max_seq_len) // _CPU_KV_BLOCK_TOKENS)
    return choices.take(
        "kv_cache.max_tokens",
        written,
        blocks * _CPU_KV_BLOCK_TOKENS,
        f"full batches of full sequences, at most 1 GiB ({token_bytes} bytes a token)",
    )


def _gemm_plugin(schemes: tuple[Scheme, ...]) -> str | None:
    """What every layer's precision is advised to have, else upstream's own choice for each."""
    advised = {scheme.gemm_plugin for scheme in schemes}
    return advised.pop() if len(advised) == 1 else "auto"
