"""A mixture of experts in place of the MLP, and the precisions that TensorRT-LLM does not run it in.

Sources: layers/moe.py of TensorRT-LLM 1.3.0rc3, _torch/modules/fused_moe/{fused_moe_cutlass,quantization}.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from builder.families.base import Linear
from builder.families.decoder import hidden, linear
from builder.model_config import ModelConfig, refuse


def _expert(config: ModelConfig) -> int:
    return config.moe_intermediate_size


def _experts(config: ModelConfig) -> int:
    return config.num_experts


def expert_linears(module: str, *, gate: str, up: str, down: str) -> tuple[Linear, ...]:
    """The router and the experts of `module`, whose projections are called `gate`, `up` and `down`.

    TensorRT-LLM stacks them by expert, `mlp.fc` [experts, up and gate, hidden] and `mlp.proj` [experts, hidden, inner],
    with up above gate, and keeps the router in float32: a rounded score may choose another expert.
    """
    inner: dict[str, Any] = {
        "trtllm": "mlp.fc",
        "rows": _expert,
        "columns": hidden,
        "split": "column",
        "reads": module,
        "experts": True,
    }
    return (
        linear(
            f"{module}.gate",
            "router",
            trtllm="mlp.router",
            rows=_experts,
            columns=hidden,
            split="none",
            quantized=False,
            trtllm_dtype="F32",
        ),
        linear(f"{module}.experts.{{e}}.{up}", "up", **inner),
        linear(f"{module}.experts.{{e}}.{gate}", "gate", **inner),
        linear(
            f"{module}.experts.{{e}}.{down}",
            "down",
            trtllm="mlp.proj",
            rows=hidden,
            columns=_expert,
            split="row",
            experts=True,
        ),
    )


def with_experts(
    config: ModelConfig, raw: Mapping[str, Any], *, experts: int, per_token: int, size: int, norm_topk_prob: bool
) -> ModelConfig:
    """`config` with its experts; SpecError where a token is to have more of them than there are."""
    if per_token > experts:
        raise refuse("num_experts_per_tok", per_token, f"at most the model's {experts} experts")
    return replace(
        config,
        num_experts=experts,
        experts_per_token=per_token,
        moe_intermediate_size=size,
        norm_topk_prob=norm_topk_prob,
        raw=raw,
    )


def moe_config(config: ModelConfig) -> dict[str, Any]:
    """Upstream's `MoeConfig`: the keys that every version of it knows. Mode 1 makes a token's weights add up to 1."""
    return {
        "num_experts": config.num_experts,
        "top_k": config.experts_per_token,
        "normalization_mode": 1 if config.norm_topk_prob else 0,
    }


_ONE_SCALE = "TensorRT-LLM keeps one pre_quant_scale for all experts of a layer, and each expert has its own best one"
EXPERTS_UNSERVED: Mapping[tuple[str, str | None], str] = MappingProxyType(
    {
        ("tensorrt", "int8_sq"): "TensorRT-LLM has no SmoothQuant for a mixture of experts",
        ("tensorrt", "int4_awq"): _ONE_SCALE,
        ("tensorrt", "w4a8_awq"): _ONE_SCALE,
        ("tensorrt", "fp8_pc_pt"): "TensorRT-LLM's mixture of experts refuses FP8 with scales for each row",
        ("pytorch", "int4_wo"): "TensorRT-LLM's fused experts know INT8 alone as plain weight-only",
        ("pytorch", "int4_awq"): "TensorRT-LLM's fused experts take 4-bit groups only with FP8 activations",
        ("pytorch", "w4a8_awq"): _ONE_SCALE,
        ("pytorch", "fp8_pc_pt"): "TensorRT-LLM's fused experts have no FP8 with scales for each row",
    }
)
