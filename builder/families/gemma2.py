"""Gemma 2: soft caps on attention scores and logits, a sliding window in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from builder.families import gemma
from builder.families.base import Family
from builder.model_config import ModelConfig


def _read_config(raw: Mapping[str, Any]) -> ModelConfig:
    known = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, **raw}
    config = gemma.read_config(known, every=2, qk_norm=False)
    return replace(config, attn_logit_softcapping=gemma.cap(known, "attn_logit_softcapping"), raw=raw)


def _trtllm_extras(config: ModelConfig) -> dict[str, Any]:
    return {**gemma.trtllm_extras(config), "attn_logit_softcapping": config.attn_logit_softcapping}


FAMILY = Family(
    architecture="Gemma2ForCausalLM",
    model_type="gemma2",
    read_config=_read_config,
    trtllm_extras=_trtllm_extras,
    linears=gemma.LINEARS,
    norms=gemma.NORMS,
    final_norm_offset=gemma.ONE,
    parallel_embedding=True,
    unserved=MappingProxyType({("pytorch", None): "TensorRT-LLM's PyTorch backend has no Gemma 2"}),
)
