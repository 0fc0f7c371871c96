"""Rows that most families share: sizes, attention, gated MLP, pre-norms."""

from __future__ import annotations

from typing import Any

from builder.families.base import Linear, Norm, Role, Size, Slice, Split
from builder.model_config import ModelConfig


def hidden(config: ModelConfig) -> int:
    return config.hidden_size


def intermediate(config: ModelConfig) -> int:
    return config.intermediate_size


def query_rows(config: ModelConfig) -> int:
    return config.num_attention_heads * config.head_size


def key_value_rows(config: ModelConfig) -> int:
    return config.num_key_value_heads * config.head_size


def _qkv_bias(config: ModelConfig) -> bool:
    return config.attention_bias


def _output_bias(config: ModelConfig) -> bool:
    return config.attention_output_bias


def _mlp_bias(config: ModelConfig) -> bool:
    return config.mlp_bias


def _head(config: ModelConfig) -> int:
    return config.head_size


def _qk_norm(config: ModelConfig) -> bool:
    return config.qk_norm


def linear(hf: str, role: Role, *, rows: Size, split: Split, **fields: Any) -> Linear:
    """A linear with one role."""
    return Linear(hf=hf, slices=(Slice(role=role, rows=rows, split=split),), **fields)


_QKV: dict[str, Any] = {"trtllm": "attention.qkv", "bias": _qkv_bias, "columns": hidden, "norm": "input_layernorm"}
OUTPUT = linear(
    "self_attn.o_proj",
    "output",
    trtllm="attention.dense",
    rows=hidden,
    columns=query_rows,
    split="row",
    bias=_output_bias,
)
ATTENTION = (
    linear("self_attn.q_proj", "query", rows=query_rows, split="column", **_QKV),
    linear("self_attn.k_proj", "key", rows=key_value_rows, split="kv", **_QKV),
    linear("self_attn.v_proj", "value", rows=key_value_rows, split="kv", **_QKV),
    OUTPUT,
)


def gated_mlp(norm: str) -> tuple[Linear, ...]:
    """The MLP that reads `norm`. TensorRT-LLM's `fc` is the projection that the activation applies to, so gate_proj,
    and its `gate` is up_proj."""
    inner: dict[str, Any] = {"rows": intermediate, "columns": hidden, "bias": _mlp_bias, "norm": norm}
    return (
        linear("mlp.gate_proj", "gate", trtllm="mlp.fc", split="column", **inner),
        linear("mlp.up_proj", "up", trtllm="mlp.gate", split="column", **inner),
        DOWN,
    )


DOWN = linear(
    "mlp.down_proj", "down", trtllm="mlp.proj", rows=hidden, columns=intermediate, split="row", bias=_mlp_bias
)
GATED_LINEARS = (*ATTENTION, *gated_mlp("post_attention_layernorm"))


def qk_norms(offset: float = 0.0) -> tuple[Norm, ...]:
    """The norms of each query and key head, where a model has them."""
    return (
        Norm(hf="self_attn.q_norm", trtllm="attention.q_layernorm", size=_head, present=_qk_norm, offset=offset),
        Norm(hf="self_attn.k_norm", trtllm="attention.k_layernorm", size=_head, present=_qk_norm, offset=offset),
    )


PRE_NORMS = (
    Norm(hf="input_layernorm", trtllm="input_layernorm", size=hidden),
    Norm(hf="post_attention_layernorm", trtllm="post_layernorm", size=hidden),
    *qk_norms(),
)
