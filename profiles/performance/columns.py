"""What the model computes with: one array for each fact, one element for each question.

A question is a replica with its load. All formulas are written on arrays, so that fitting thousands of rows and
answering one question are the same code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from profiles import versions
from profiles.model_shape import ModelShape
from profiles.performance.hardware import Device, device
from profiles.performance.setup import Setup

Array = np.ndarray[Any, np.dtype[np.float64]]

PYTORCH_BENCHMARKS_BEGIN = "0.19"
"""From here on the published rows come from the PyTorch backend: perf-overview.md of that version."""

_GROUPED_ATTENTION_BEGINS = "0.11"
_GROUP_BEFORE = 8  # query heads for each KV head of Llama 70B, for which the kernels of 0.10 were made

_SHAPE: Mapping[str, Callable[[ModelShape], float]] = {
    "hidden": lambda shape: shape.hidden_size,
    "intermediate": lambda shape: shape.intermediate_size or shape.moe_intermediate_size,
    "layers": lambda shape: shape.num_hidden_layers,
    "heads": lambda shape: shape.num_attention_heads,
    "kv_heads": lambda shape: shape.num_key_value_heads,
    "kv_elements": lambda shape: shape.kv_elements_per_layer,
    "vocab": lambda shape: shape.vocab_size,
    "attention_params": lambda shape: shape.attention_params,
    "mlp_params": lambda shape: shape.dense_mlp_params,
    "dense_layers": lambda shape: shape.num_dense_layers,
    "moe_layers": lambda shape: shape.num_moe_layers,
    "experts": lambda shape: max(shape.num_experts, 1),
    "top_k": lambda shape: shape.experts_per_token,
    "expert_params": lambda shape: shape.expert_params,
    "expert_width": lambda shape: shape.moe_intermediate_size or shape.intermediate_size,
    "shared_params": lambda shape: shape.shared_expert_params,
    "mla": lambda shape: shape.is_mla,
    "prefill_head": lambda shape: _prefill_head(shape),
    "decode_head": lambda shape: _decode_head(shape),
    "window_share": lambda shape: shape.num_sliding_layers / shape.num_hidden_layers,
    "embedding_params": lambda shape: shape.embedding_params * (1 if shape.tie_word_embeddings else 2),
}


@dataclass(frozen=True)
class Question:
    """A replica and its load. `concurrency` None: as many requests as it can hold, `requests` of them in all."""

    setup: Setup
    isl: int
    osl: int
    concurrency: float | None = None
    requests: float | None = None


@dataclass(frozen=True)
class Columns:
    """Facts of n questions as arrays [n]; bytes, seconds, tokens, FLOP/s and elements as the names say."""

    facts: Mapping[str, Array]
    levels: Mapping[str, Sequence[str]]  # which level of each group of constants a question belongs to

    def __post_init__(self) -> None:
        self.__dict__.update(self.facts)  # every fact is an attribute, as formulas read them

    def __getattr__(self, name: str) -> Array:
        raise AttributeError(f"no such fact: {name}")

    def __len__(self) -> int:
        return len(self.facts["isl"])

    def take(self, index: np.ndarray[Any, Any]) -> Columns:
        """The questions at these positions."""
        return Columns(
            {name: values[index] for name, values in self.facts.items()},
            {name: [keys[i] for i in index] for name, keys in self.levels.items()},
        )


def columns(questions: Sequence[Question]) -> Columns:
    """The arrays of these questions; SpecError when a SKU's facts do not allow any prediction."""
    rows = [_facts(question, device(question.setup.sku, question.setup.precision)) for question in questions]
    table = np.array([list(row[0].values()) for row in rows], dtype=float).T
    levels = {name: [row[1][name] for row in rows] for name in rows[0][1]}
    return Columns(dict(zip(rows[0][0], table, strict=True)), levels)


@functools.lru_cache(maxsize=256)
def stack_of(version: str) -> str:
    """`engine` or `pytorch`: which of the two the published rows of that version were measured with."""
    return "engine" if versions.compare(version, PYTORCH_BENCHMARKS_BEGIN) < 0 else "pytorch"


def _facts(question: Question, gpu: Device) -> tuple[dict[str, float], dict[str, str]]:
    """Engines attend to the whole context unless told otherwise, so a sliding window counts for PyTorch only."""
    setup = question.setup
    stack = stack_of(setup.trtllm_version)
    bus = "nvlink" if gpu.nvlink else "pcie"
    topology = bus if gpu.nvlink else f"{bus} {gpu.arch}"
    ranks = setup.tp_size if setup.attention_dp else 1
    passes = _kv_passes(setup)
    facts = {
        **_shape_facts(setup.shape),
        "weight_bytes": gpu.weight_bytes,
        "sent_bytes": gpu.weight_bytes if gpu.flops > gpu.flops16 else 2,  # of a token on its way to an expert
        "kv_bytes": setup.kv_bits / 8,
        "kv_passes": passes,
        "flops": gpu.flops,
        "flops16": gpu.flops16,
        "power": gpu.power,
        "bandwidth": gpu.bandwidth,
        "memory": gpu.memory,
        "link": gpu.link,
        "gpus": setup.tp_size,
        "dp": ranks,
        "ep": setup.tp_size if setup.attention_dp else setup.ep_size,
        "tp": setup.tp_size / ranks,
        "pp": setup.pp_size,
        "isl": question.isl,
        "osl": question.osl,
        "window": setup.shape.sliding_window if stack == "pytorch" and setup.shape.sliding_window else np.inf,
        "serving": question.concurrency is not None,
        "pytorch": stack == "pytorch",
        "load": question.concurrency or question.requests or np.inf,
        "requests": question.requests or np.inf,
        "max_batch": setup.max_batch_size or np.nan,
        "max_tokens": setup.max_num_tokens or np.nan,
        "kv_memory": np.nan if setup.kv_memory_bytes is None else setup.kv_memory_bytes,
    }
    levels = {
        "architecture": gpu.arch,
        "sku": setup.sku.id,
        "math": gpu.math,
        "stack": stack,
        "client": "serve" if question.concurrency is not None else stack,
        "version": _minor(setup.trtllm_version),
        "heads": "mha" if passes > 1 or _heads_of_a_group(setup.shape) == 1 else "gqa",
        "bus": bus,
        "ring": f"{bus} {setup.tp_size}",
        "topology": topology,
        "group": f"{topology} {setup.tp_size}",
        "kind": "serve" if question.concurrency is not None else "saturated",
        "family": "moe" if setup.shape.is_moe else "dense",
        "model": size_of(setup.shape),
        "gpus": str(setup.tp_size),
        "assumed": ", ".join(gpu.assumed),
    }
    return facts, levels


@functools.lru_cache(maxsize=256)
def size_of(shape: ModelShape) -> str:
    """What tells models apart here: not their names, for a later release or a fine-tune is as fast as the first."""
    experts = f"x{shape.num_experts}" if shape.is_moe else ""
    inner = shape.moe_intermediate_size or shape.intermediate_size
    return f"{shape.hidden_size}x{shape.num_hidden_layers}x{inner}{experts}"


@functools.lru_cache(maxsize=256)
def _shape_facts(shape: ModelShape) -> Mapping[str, float]:
    return {name: float(read(shape)) for name, read in _SHAPE.items()}


def _kv_passes(setup: Setup) -> float:
    """How often decode attention goes through the KV cache: once, or in 0.10 once for each query head of a group.

    0.10 had kernels for the groups of Llama 70B (release notes of 0.10.0); groups of another size were left to the
    kernel that takes each query head alone. The rows show it on Ampere and Hopper, two to three times slower than those
    of 0.11, and not on Ada.
    """
    heads = _heads_of_a_group(setup.shape)
    grouped = versions.compare(setup.trtllm_version, _GROUPED_ATTENTION_BEGINS) >= 0 or heads == _GROUP_BEFORE
    return 1.0 if grouped or setup.shape.is_mla or setup.sku.arch == "Ada" else heads


def _heads_of_a_group(shape: ModelShape) -> float:
    return shape.num_attention_heads / shape.num_key_value_heads


def _minor(version: str) -> str:
    """`0.13` for 0.13.0, `1.2` for 1.2.1 and for 1.2.0rc3: drift is fitted by minor version."""
    return ".".join(version.split(".")[:2])


def _prefill_head(shape: ModelShape) -> float:
    """Products for each pair of tokens and head in prefill, half of query-key and value together."""
    return (shape.qk_nope_head_dim + shape.qk_rope_head_dim + shape.head_size) / 2 if shape.is_mla else shape.head_size


def _decode_head(shape: ModelShape) -> float:
    """The same in decode, where MLA multiplies with the latent vectors themselves."""
    return shape.kv_lora_rank + shape.qk_rope_head_dim / 2 if shape.is_mla else shape.head_size
