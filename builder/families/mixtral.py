"""Mixtral: Mistral's attention, and eight experts of which two serve each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.families.base import Family
from builder.families.decoder import ATTENTION, PRE_NORMS
from builder.families.experts import EXPERTS_UNSERVED, expert_linears, moe_config, with_experts
from builder.families.llama import trtllm_extras
from builder.model_config import ModelConfig, count


def _read_config(raw: Mapping[str, Any]) -> ModelConfig:
    known = {"rope_theta": 1e6, **raw}  # transformers' default: not 1e4 as in other families
    config = ModelConfig.from_hf(
        known, attention_bias=False, attention_output_bias=False, qk_norm=False, mlp_bias=False
    )
    return with_experts(
        config,
        raw,
        experts=count(raw, "num_local_experts", 8),
        per_token=count(raw, "num_experts_per_tok", 2),
        size=config.intermediate_size,
        norm_topk_prob=True,
    )


def _trtllm_extras(config: ModelConfig) -> dict[str, Any]:
    """`swiglu` where Llama's class has silu: upstream's experts want the gate named."""
    return {**trtllm_extras(config), "hidden_act": "swiglu", "moe": moe_config(config)}


FAMILY = Family(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    read_config=_read_config,
    trtllm_extras=_trtllm_extras,
    linears=(*ATTENTION, *expert_linears("block_sparse_moe", gate="w1", up="w3", down="w2")),
    norms=PRE_NORMS,
    unserved=EXPERTS_UNSERVED,
)
