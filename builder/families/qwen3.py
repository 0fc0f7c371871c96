"""Qwen3: a norm on each query and key head, and a head size of its own, in place of Qwen2's biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.families.base import Family
from builder.families.decoder import GATED_LINEARS, PRE_NORMS
from builder.families.qwen2 import qwen_extras
from builder.model_config import ModelConfig, flag
from trtllm_kit.errors import SpecError


def _read_config(raw: Mapping[str, Any]) -> ModelConfig:
    bias = flag(raw, "attention_bias")
    return ModelConfig.from_hf(
        {"head_dim": 128, **raw},  # transformers' default: not hidden_size / heads as in the other families
        attention_bias=bias,
        attention_output_bias=bias,
        qk_norm=True,
        mlp_bias=False,
        sliding=flag(raw, "use_sliding_window"),
    )


def refuse_biases(config: ModelConfig) -> None:
    """SpecError for attention biases, which upstream's Qwen3 classes do not read."""
    if config.attention_bias:
        raise SpecError(
            "this Qwen3 checkpoint has attention biases, and TensorRT-LLM's Qwen3 engines have none",
            expected="attention_bias false in config.json, as in all Qwen3 releases",
            fix="build it for the `pytorch` or `cpu` runtime",
        )


def _trtllm_extras(config: ModelConfig) -> dict[str, Any]:
    refuse_biases(config)
    return qwen_extras(config, qwen_type="qwen3")


FAMILY = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    read_config=_read_config,
    trtllm_extras=_trtllm_extras,
    linears=GATED_LINEARS,
    norms=PRE_NORMS,
)
