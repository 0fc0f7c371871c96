"""Gemma 3, the language model: norms on query and key heads, and a rotary base of its own in sliding layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from builder.families import gemma
from builder.families.base import Family
from builder.model_config import ModelConfig, Rope, count, number, read_rope, refuse
from trtllm_kit.errors import SpecError

_PATTERN = 6


def _read_config(raw: Mapping[str, Any]) -> ModelConfig:
    whole, local = _ropes(raw)
    every = count(raw, "sliding_window_pattern", count(raw, "_sliding_window_pattern", _PATTERN))
    return replace(gemma.read_config(raw, every=every, qk_norm=True, rope=whole), local_rope=local)


def _ropes(raw: Mapping[str, Any]) -> tuple[Rope, Rope]:
    """(of the layers that see everything, of sliding ones): transformers 5 has both in `rope_parameters` by name; in 4
    the scaling applied to the first alone."""
    both = raw.get("rope_parameters")
    if not both:
        return read_rope({"rope_theta": 1e6, **raw}, raw), Rope(theta=number(raw, "rope_local_base_freq", 1e4))
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(both, Mapping) or not all(isinstance(both.get(kind), Mapping) for kind in kinds):
        raise refuse("rope_parameters", both, f"the parameters of {' and '.join(kinds)}")
    whole, local = (read_rope({"rope_parameters": both[kind]}, raw) for kind in kinds)
    return whole, local


def _trtllm_extras(config: ModelConfig) -> dict[str, Any]:
    return {
        **gemma.trtllm_extras(config),
        "_sliding_window_pattern": _pattern(config),
        "rope_local_base_freq": None if config.local_rope is None else config.local_rope.theta,
        "sliding_window": config.sliding_window,
    }


def _pattern(config: ModelConfig) -> int:
    """Upstream knows only "every n-th layer sees everything"; SpecError for layers in another order."""
    layers, whole = config.num_hidden_layers, config.full_attention_layers
    pattern = min(whole, default=layers) + 1
    if whole != {layer for layer in range(layers) if (layer + 1) % pattern == 0}:
        raise SpecError(
            "config.json: the layers of full_attention in 'layer_types' come at no regular distance",
            expected="every n-th layer, which is all that TensorRT-LLM's Gemma 3 engines know",
            fix="build it for the `pytorch` or `cpu` runtime",
        )
    return pattern


FAMILY = Family(
    architecture="Gemma3ForCausalLM",
    model_type="gemma3_text",
    read_config=_read_config,
    trtllm_extras=_trtllm_extras,
    linears=gemma.LINEARS,
    norms=gemma.NORMS,
    final_norm_offset=gemma.ONE,
    parallel_embedding=True,
)
