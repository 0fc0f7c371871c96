"""Qwen3-MoE: Qwen3's attention, and small experts in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.families.base import Family
from builder.families.decoder import ATTENTION, PRE_NORMS
from builder.families.experts import EXPERTS_UNSERVED, expert_linears, moe_config, with_experts
from builder.families.qwen2 import qwen_extras
from builder.families.qwen3 import refuse_biases
from builder.model_config import ModelConfig, count, flag, refuse


def _read_config(raw: Mapping[str, Any]) -> ModelConfig:
    for key, everywhere in (("decoder_sparse_step", 1), ("mlp_only_layers", [])):
        if raw.get(key, everywhere) not in (None, everywhere):
            raise refuse(key, raw[key], f"{everywhere!r}: experts in every layer, as in all Qwen3-MoE releases")
    bias = flag(raw, "attention_bias")
    experts = "num_experts" if raw.get("num_experts") is not None else "num_local_experts"  # transformers 4, 5
    config = ModelConfig.from_hf(
        {"head_dim": 128, **raw},
        attention_bias=bias,
        attention_output_bias=bias,
        qk_norm=True,
        mlp_bias=False,
        sliding=flag(raw, "use_sliding_window"),
    )
    return with_experts(
        config,
        raw,
        experts=count(raw, experts, 128),
        per_token=count(raw, "num_experts_per_tok", 8),
        size=count(raw, "moe_intermediate_size", 768),
        norm_topk_prob=flag(raw, "norm_topk_prob"),
    )


def _trtllm_extras(config: ModelConfig) -> dict[str, Any]:
    refuse_biases(config)
    return {
        **qwen_extras(config, qwen_type="qwen3_moe"),
        "hidden_act": "swiglu",
        "moe": moe_config(config),
        "moe_intermediate_size": config.moe_intermediate_size,
        "moe_shared_expert_intermediate_size": 0,
    }


FAMILY = Family(
    architecture="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    read_config=_read_config,
    trtllm_extras=_trtllm_extras,
    linears=(*ATTENTION, *expert_linears("mlp", gate="gate_proj", up="up_proj", down="down_proj")),
    norms=PRE_NORMS,
    unserved=EXPERTS_UNSERVED,
)
