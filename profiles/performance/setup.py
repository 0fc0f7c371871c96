"""What a prediction is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from profiles import versions
from profiles.model_shape import ModelShape
from profiles.skus import Sku


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One replica of one model."""

    shape: ModelShape
    precision: str  # an id of `profiles.precisions`
    kv_bits: float
    sku: Sku
    tp_size: int
    pp_size: int = 1
    ep_size: int = 1
    attention_dp: bool = False  # attention by data parallelism over the `tp_size` GPUs, experts dealt out over them
    trtllm_version: str = versions.DEFAULT
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    kv_memory_bytes: float | None = None  # for KV blocks on each GPU; None: what the weights and a reserve leave


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A figure with the interval that held 90 % of the held-out rows of its basis."""

    value: float
    low: float
    high: float
    basis: str
    calibrated: bool


@dataclass(frozen=True, kw_only=True)
class Operating:
    """What a closed loop of users sees."""

    output_tokens_per_s: Prediction
    ttft_ms: Prediction
    tpot_ms: Prediction
    batch: float  # sequences in flight
