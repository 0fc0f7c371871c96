"""How many sequences are in flight: the paged KV cache, the batch ceiling, or the load, whichever ends first."""

from __future__ import annotations

import numpy as np

from profiles.performance.columns import Array, Columns
from profiles.performance.step import Constants, kv_elements

_CEILING = 4096.0  # trtllm-bench never asks for more sequences: bench/build/tuning.py:finetune_setting
_FEWEST_TOKENS, _MOST_TOKENS = 2048.0, 32768.0  # its bounds for max_num_tokens, same place
_SERVED_TOKENS = 8192.0  # max_num_tokens of trtllm-serve: llmapi/llm_args.py
_FEWEST_SEQUENCES = 64.0
SHARPNESS = 6.0  # of `least`


def weight_bytes(c: Columns) -> Array:
    """Weights on one GPU; embedding and head stay in 16 bits, and with a pipeline no GPU has both."""
    mlp = c.dense_layers * c.mlp_params + c.moe_layers * (c.experts * c.expert_params + c.shared_params)
    linears = (c.layers * c.attention_params / c.tp + mlp / c.gpus) * c.weight_bytes / c.pp
    return np.asarray(linears + 2 * c.embedding_params / c.gpus / np.minimum(c.pp, 2))


def capacity(c: Columns, k: Constants) -> Array:
    """Sequences of a replica that the KV cache, the batch size and the token budget allow together.

    GUARANTEED_NO_EVICT, the scheduler's default, reserves room for a sequence's whole output when it is admitted.
    """
    sequence = kv_elements(c) * c.layers / c.pp * c.kv_bytes * _held(c)
    paged = np.where(np.isnan(c.kv_memory), _free_bytes(c, k, sequence), c.kv_memory) / sequence * c.dp
    ceiling = np.where(np.isnan(c.max_batch), _CEILING, c.max_batch) * c.dp
    budget = np.where(np.isnan(c.max_tokens), np.inf, c.max_tokens / (1 + c.isl / c.osl)) * c.dp * c.pp
    return least(paged, ceiling, budget)


def least(*limits: Array, sharpness: Array | float = SHARPNESS) -> Array:
    """The smallest limit, a little less where several are near."""
    smallest = np.minimum.reduce(limits)
    return np.asarray(smallest * sum((limit / smallest) ** -sharpness for limit in limits) ** (-1 / sharpness))


def chunk_tokens(c: Columns, sequences: Array) -> Array:
    """max_num_tokens of one rank: as set, as served, or as trtllm-bench tunes it to `sequences` on each rank."""
    tuned = np.maximum(sequences * (1 + c.isl / c.osl), _FEWEST_TOKENS)
    return np.where(np.isnan(c.max_tokens), np.where(c.serving > 0, _SERVED_TOKENS, tuned), c.max_tokens)


def _held(c: Columns) -> Array:
    """Tokens of a full sequence that stay in the cache; sliding layers drop what they no longer attend to."""
    full = c.isl + c.osl
    return np.asarray(full - c.window_share * np.maximum(full - c.window, 0))


def _free_bytes(c: Columns, k: Constants, sequence: Array) -> Array:
    """What weights, activations and buffers leave on one GPU for KV blocks; never below a small share."""
    left = c.memory - weight_bytes(c)
    left = (left + np.sqrt(left**2 + (0.02 * c.memory) ** 2)) / 2
    wanted = np.clip(0.95 * left / sequence * c.dp, 1, _CEILING) / c.pp / c.dp
    tokens = np.clip(wanted * (1 + c.isl / c.osl), _FEWEST_TOKENS, _MOST_TOKENS)
    tokens = np.where(np.isnan(c.max_tokens), np.where(c.serving > 0, _SERVED_TOKENS, tokens), c.max_tokens)
    rows = np.where(np.isnan(c.max_batch), np.maximum(wanted, _FEWEST_SEQUENCES), c.max_batch)
    gathered = np.where(c.dp > 1, 2 * c.hidden * c.dp, 0)
    routed = gathered + c.top_k * (c.hidden + 2 * c.expert_params / 3 / c.hidden) * c.dp / c.gpus
    width = 2 * c.hidden + np.where(c.moe_layers > 0, routed, 2 * c.intermediate / c.tp)
    reserve = (
        k["reserve_bytes"]
        + np.where(c.dp > 1, k["reserve_attention_dp_bytes"], 0)
        + k["reserve_activations"] * 2 * tokens * width
        + k["reserve_logit_bytes"] * rows * c.vocab
    )
    crowded = reserve / left
    return np.asarray(np.minimum(k["kv_fraction"], 1) * left / (1 + crowded + crowded**2))
