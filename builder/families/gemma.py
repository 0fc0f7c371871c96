"""What Gemma 2 and 3 share: norms that add one to their weight and stand on both sides of attention and MLP, a scaled
embedding that is the output layer too, and layers that alternate between a sliding window and the whole context.

Sources: models/gemma/{config,convert,model}.py of TensorRT-LLM 1.3.0rc3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from builder.families.base import Norm
from builder.families.decoder import ATTENTION, gated_mlp, hidden, qk_norms
from builder.model_config import ModelConfig, Rope, count, number, refuse

ONE = 1.0
_TYPES = ("sliding_attention", "full_attention")

LINEARS = (*ATTENTION, *gated_mlp("pre_feedforward_layernorm"))
NORMS = (
    Norm(hf="input_layernorm", trtllm="input_layernorm", size=hidden, offset=ONE),
    Norm(hf="post_attention_layernorm", trtllm="post_layernorm", size=hidden, offset=ONE),
    Norm(hf="pre_feedforward_layernorm", trtllm="pre_feedforward_layernorm", size=hidden, offset=ONE),
    Norm(hf="post_feedforward_layernorm", trtllm="post_feedforward_layernorm", size=hidden, offset=ONE),
    *qk_norms(ONE),
)


def read_config(raw: Mapping[str, Any], *, every: int, qk_norm: bool, rope: Rope | None = None) -> ModelConfig:
    """A Gemma's config. Every `every`-th layer looks back on everything, where `layer_types` does not say which do."""
    if raw.get("use_bidirectional_attention"):
        raise refuse("use_bidirectional_attention", True, "false: the kit generates text, and does not embed it")
    layers = count(raw, "num_hidden_layers")
    types = raw.get("layer_types") or [_TYPES[(layer + 1) % every == 0] for layer in range(layers)]
    if not isinstance(types, list) or len(types) != layers or not {*map(str, types)} <= {*_TYPES}:
        raise refuse("layer_types", types, f"{' or '.join(_TYPES)} for each of {layers} layers")
    config = ModelConfig.from_hf(
        {"head_dim": 256, "tie_word_embeddings": True, "sliding_window": 4096, **raw},
        attention_bias=False,
        attention_output_bias=False,
        qk_norm=qk_norm,
        mlp_bias=False,
        rope=rope,
        activation=("hidden_activation", "gelu_pytorch_tanh"),
    )
    return replace(
        config,
        full_attention_layers=frozenset(layer for layer, kind in enumerate(types) if kind == _TYPES[True]),
        query_pre_attn_scalar=number(raw, "query_pre_attn_scalar", 256),
        final_logit_softcapping=cap(raw, "final_logit_softcapping"),
        embedding_scale=math.sqrt(config.hidden_size),
        sandwich_norms=True,
        raw=raw,
    )


def cap(raw: Mapping[str, Any], key: str) -> float | None:
    """A soft cap on scores or logits, None for none."""
    return None if raw.get(key) is None else number(raw, key, 0)


def trtllm_extras(config: ModelConfig) -> dict[str, Any]:
    """Keys that upstream's `GemmaConfig` reads for 2 and 3 alike."""
    return {
        "attn_bias": False,
        "mlp_bias": False,
        "query_pre_attn_scalar": config.query_pre_attn_scalar,
        "final_logit_softcapping": config.final_logit_softcapping,
    }
