"""Mistral: Llama's tensors without any bias, and a sliding attention window in its older releases.

Upstream's engine config has no key for the window: it is the executor's `max_attention_window_size` at run time, so
`ModelConfig.sliding_window` carries it to what renders the model repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.families.base import Family
from builder.families.decoder import GATED_LINEARS, PRE_NORMS
from builder.families.llama import trtllm_extras
from builder.model_config import ModelConfig


def _read_config(raw: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig.from_hf(raw, attention_bias=False, attention_output_bias=False, qk_norm=False, mlp_bias=False)


FAMILY = Family(
    architecture="MistralForCausalLM",
    model_type="mistral",
    read_config=_read_config,
    trtllm_extras=trtllm_extras,
    linears=GATED_LINEARS,
    norms=PRE_NORMS,
)
