"""The library's pipeline for an engine folder, within the limits of the build and of the deployment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder.compile.openvino_ir.settings import TOKENS_PER_BLOCK, CpuEngineSettings, pipeline_properties
from trtllm_kit.errors import HostError, IncompatibleError


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What the deployment decides about an engine that is already built."""

    max_batch_size: int | None = None  # at most the engine's own
    max_queue_size: int = 0  # requests that may wait beyond the batch; 0: no limit
    enable_block_reuse: bool | None = None  # None: as built
    kv_tokens: int | None = None  # KV pool, in tokens; at most the engine's own
    attention_window: int | None = None  # tokens that a request may span; at most the engine's max_seq_len
    threads: int | None = None  # compute threads; None: OpenVINO's choice


def narrowed(built: CpuEngineSettings, options: EngineOptions) -> CpuEngineSettings:
    """The engine's own limits, lowered where the deployment asks for less; IncompatibleError when too low."""
    blocks = built.num_kv_blocks if options.kv_tokens is None else -(-options.kv_tokens // TOKENS_PER_BLOCK) + 1
    lowered = replace(
        built,
        max_batch_size=min(options.max_batch_size or built.max_batch_size, built.max_batch_size),
        max_seq_len=min(options.attention_window or built.max_seq_len, built.max_seq_len),
        num_kv_blocks=min(blocks, built.num_kv_blocks),
        enable_block_reuse=built.enable_block_reuse and options.enable_block_reuse is not False,
    )
    if lowered.kv_capacity_tokens < lowered.max_seq_len:
        raise IncompatibleError(
            f"a KV cache of {lowered.kv_capacity_tokens} tokens cannot hold one request of {lowered.max_seq_len}",
            expected="max_tokens_in_paged_kv_cache of at least max_seq_len",
            fix="raise kv_cache.max_tokens and build the repository again",
        )
    return lowered


def open_pipeline(folder: Path, settings: CpuEngineSettings, threads: int | None) -> Any:
    """An `openvino_genai.ContinuousBatchingPipeline`; HostError when the library or the engine cannot be used."""
    try:
        import openvino_genai
    except ImportError as error:
        raise HostError(
            f"openvino-genai cannot be imported: {error}",
            expected="the extra of the cpu runtime",
            fix="pip install 'trtllm-kit[cpu]'",
        ) from None
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = settings.num_kv_blocks
    scheduler.max_num_seqs = settings.max_batch_size
    scheduler.max_num_batched_tokens = settings.max_num_tokens
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = settings.enable_block_reuse
    properties = pipeline_properties(settings, threads)
    try:
        return openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
    except RuntimeError as error:
        raise HostError(
            f"the engine in {folder} cannot be opened: {str(error).strip().splitlines()[-1]}",
            expected=f"an engine for openvino-genai {settings.openvino_version}, and enough memory",
            fix="build the model again on this machine, or lower kv_cache.max_tokens",
        ) from error
