"""Qwen2 and Qwen2.5: Llama's layout with biases on q, k and v, always."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.families.base import Family
from builder.families.decoder import GATED_LINEARS, PRE_NORMS
from builder.model_config import ModelConfig, flag


def _read_config(raw: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig.from_hf(
        raw,
        attention_bias=True,
        attention_output_bias=False,
        qk_norm=False,
        mlp_bias=False,
        sliding=flag(raw, "use_sliding_window"),
    )


def qwen_extras(config: ModelConfig, *, qwen_type: str) -> dict[str, Any]:
    """Keys of upstream's `QWenConfig`; `seq_length` only matters to the first Qwen's logn attention."""
    return {
        "qwen_type": qwen_type,
        "attn_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "seq_length": 8192,
        "use_logn_attn": False,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def _trtllm_extras(config: ModelConfig) -> dict[str, Any]:
    return qwen_extras(config, qwen_type="qwen2")


FAMILY = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    read_config=_read_config,
    trtllm_extras=_trtllm_extras,
    linears=GATED_LINEARS,
    norms=PRE_NORMS,
)
