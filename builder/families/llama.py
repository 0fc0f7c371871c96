"""Llama 2 and 3.x: the plain pre-norm decoder with grouped-query attention and a gated MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.families.base import Family
from builder.families.decoder import GATED_LINEARS, PRE_NORMS
from builder.model_config import ModelConfig, flag


def _read_config(raw: Mapping[str, Any]) -> ModelConfig:
    bias = flag(raw, "attention_bias")  # on q, k, v and o alike
    return ModelConfig.from_hf(raw, attention_bias=bias, attention_output_bias=bias, qk_norm=False)


def trtllm_extras(config: ModelConfig) -> dict[str, Any]:
    """Keys of upstream's `LLaMAConfig`; its `attn_bias` covers qkv and dense."""
    return {"attn_bias": config.attention_bias, "mlp_bias": config.mlp_bias}


FAMILY = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    read_config=_read_config,
    trtllm_extras=trtllm_extras,
    linears=GATED_LINEARS,
    norms=PRE_NORMS,
)
