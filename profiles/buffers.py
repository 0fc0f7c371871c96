"""Memory beside weights and KV cache: upper bounds that hold for the allocations TensorRT-LLM itself has logged."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from profiles.model_shape import ModelShape

DTYPE_BYTES = 2  # activations, embedding and head are 16-bit whatever the weights are
_LOGIT_BYTES = 4  # logits_dtype float32
_SAMPLING_BYTES: Mapping[str, int] = {"tensorrt": 30, "pytorch": 4}
"""For each sequence of the batch and entry of the vocabulary: runtime buffers and decoder of the C++ runtime together
(28.6, 28.6 and 29.1 bytes in three logs); the PyTorch sampler keeps one more copy of the logits."""


def entry_bytes(runtime: str) -> int:
    """Of one sequence of the batch for one entry of the vocabulary: its logit, and what sampling keeps."""
    return _LOGIT_BYTES + _SAMPLING_BYTES[runtime]


@functools.lru_cache(maxsize=1024)
def activation_bytes(shape: ModelShape, tp_size: int) -> int:
    """Of one token: the features that are alive at once at a layer's widest point.

    Measured on engines: 2 × intermediate + 2 × hidden unfused, intermediate + 3 × hidden with fused SwiGLU.
    """
    hidden = shape.hidden_size
    mlp = 2 * -(-shape.intermediate_size // tp_size)
    attention = (shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head_size // tp_size
    experts = shape.experts_per_token * (2 * -(-shape.moe_intermediate_size // tp_size) + 2 * hidden)
    shared = 2 * -(-shape.shared_intermediate_size // tp_size)
    return DTYPE_BYTES * (max(mlp, attention, experts + shared) + 2 * hidden)


def exchange_bytes(shape: ModelShape, tp_size: int, pp_size: int) -> int:
    """Of one token: three buffers in turns for the all-reduce of TP, one each way between the stages of PP."""
    return (3 * (tp_size > 1) + 2 * (pp_size > 1)) * DTYPE_BYTES * shape.hidden_size
