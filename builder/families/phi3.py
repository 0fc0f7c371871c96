"""Phi-3, Phi-3.5 mini and Phi-4: Llama's decoder with q, k and v in one linear, gate and up in another.

Sources: models/phi3/{config,convert}.py and _torch/models/modeling_phi3.py of TensorRT-LLM 1.3.0rc3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from builder.families.base import Family, Linear, Slice
from builder.families.decoder import DOWN, OUTPUT, PRE_NORMS, hidden, intermediate, key_value_rows, query_rows
from builder.model_config import ModelConfig

_SCALING = ("rope_parameters", "rope_scaling")  # transformers 5, 4


def _read_config(raw: Mapping[str, Any]) -> ModelConfig:
    known = {**raw, **{key: _longrope(raw, raw[key]) for key in _SCALING if raw.get(key)}}
    config = ModelConfig.from_hf(
        known, attention_bias=False, attention_output_bias=False, qk_norm=False, mlp_bias=False, partial_rope=True
    )
    return replace(config, raw=raw)


def _longrope(raw: Mapping[str, Any], scaling: Any) -> Any:
    """Phi-3's first releases called it `su`; the length that it was trained for stands beside it, not in it."""
    if not isinstance(scaling, Mapping) or (scaling.get("rope_type") or scaling.get("type")) not in ("su", "longrope"):
        return scaling
    length = raw.get("original_max_position_embeddings")
    return {"original_max_position_embeddings": length, **scaling, "rope_type": "longrope"}


def _trtllm_extras(config: ModelConfig) -> dict[str, Any]:
    """Upstream's `Phi3Config`. Its class has one `fc` for gate and up, whose activation is then called `swiglu`."""
    extras: dict[str, Any] = {"hidden_act": "swiglu", "rotary_pct": config.rope.share}
    if config.rope.kind != "longrope":
        return extras
    scaling = config.rope.scaling
    return {
        **extras,
        "position_embedding_type": "long_rope",
        "rotary_scaling": None,
        "original_max_position_embeddings": scaling["original_max_position_embeddings"],
        "longrope_scaling_short_factors": list(scaling["short_factor"]),
        "longrope_scaling_long_factors": list(scaling["long_factor"]),
    }


def _keys(config: ModelConfig) -> int:
    return query_rows(config)


def _values(config: ModelConfig) -> int:
    return query_rows(config) + key_value_rows(config)


_QKV = Linear(
    hf="self_attn.qkv_proj",
    trtllm="attention.qkv",
    columns=hidden,
    slices=(
        Slice(role="query", rows=query_rows, split="column"),
        Slice(role="key", start=_keys, rows=key_value_rows, split="kv"),
        Slice(role="value", start=_values, rows=key_value_rows, split="kv"),
    ),
    norm="input_layernorm",
)
_GATE_UP = Linear(
    hf="mlp.gate_up_proj",
    trtllm="mlp.fc",
    columns=hidden,
    slices=(
        Slice(role="up", start=intermediate, rows=intermediate, split="column"),  # upstream has them the other way
        Slice(role="gate", rows=intermediate, split="column"),
    ),
    norm="post_attention_layernorm",
)
_FUSED = "TensorRT-LLM's loader of Phi-3 parts its fused weights with the scales of FP8 and NVFP4 only"

FAMILY = Family(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    read_config=_read_config,
    trtllm_extras=_trtllm_extras,
    linears=(_QKV, OUTPUT, _GATE_UP, DOWN),
    norms=PRE_NORMS,
    unserved=MappingProxyType(
        {
            ("pytorch", precision): _FUSED
            for precision in ("int8_wo", "int4_wo", "int4_awq", "w4a8_awq", "fp8_pc_pt", "fp8_block")
        }
    ),
)
