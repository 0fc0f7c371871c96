"""How many weights a rank holds: from the headers of a checkpoint, or from a model's shape where there is none."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from profiles.model_shape import ModelShape

_LAYER = re.compile(r"\blayers?\.(\d+)\.|\bh\.(\d+)\.")
_EMBEDDING = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight")
_HEAD = ("lm_head.weight",)
_KEYS = ("k_proj.weight", "v_proj.weight")
_COPIED = ("q_a_proj.weight", "kv_a_proj_with_mqa.weight")
_ROUTERS = ("mlp.gate.weight", "router.weight", "block_sparse_moe.gate.weight")
_SCALES = ("_scale", "_scale_2", "_scale_inv", ".scales", ".qzeros", ".g_idx", "_scaling_factor")
_ITEMS_PER_BYTE = {"F8_E4M3": 1, "I8": 1, "U8": 2, "I32": 2}  # packed 4-bit values: two a byte, eight an int32


class Tensor(Protocol):
    """What a safetensors header says of one tensor."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Parameters of one decoder layer, by what tensor parallelism does with them."""

    split: int  # every rank has its part
    keys: int  # key and value projections: heads are dealt out, then copied
    copied: int  # quantized, and whole on every rank
    plain: int  # 16 bits and whole on every rank: norms, biases, routers


@dataclass(frozen=True, kw_only=True)
class Weights:
    """All parameters of a model."""

    layers: tuple[Layer, ...]
    embedding: int
    head: int  # 0: tied to the embedding
    vocab_size: int
    num_key_value_heads: int
    origin: str  # "safetensors headers" or "config.json"

    @property
    def total(self) -> int:
        """Every parameter, once."""
        layers = sum(row.split + row.keys + row.copied + row.plain for row in self.layers)
        return layers + self.embedding + self.head


@dataclass(frozen=True, kw_only=True)
class RankWeights:
    """Parameters on the fullest rank."""

    linear: int  # in the chosen precision
    plain: int  # in 16 bits: norms, biases, routers
    embedding: int  # in 16 bits, whole on every rank of the stage that has it
    head: int  # in 16 bits, its rows padded to a multiple of tp_size


@functools.cache
def of_shape(shape: ModelShape) -> Weights:
    """From the counts of `config.json`; biases, which few families have, are left out."""
    attention_keys = 0 if shape.is_mla else 2 * shape.hidden_size * shape.num_key_value_heads * shape.head_size
    copied = (
        shape.hidden_size * (shape.q_lora_rank + shape.kv_lora_rank + shape.qk_rope_head_dim) if shape.is_mla else 0
    )
    attention = shape.attention_params - attention_keys - copied
    norms = 2 * shape.hidden_size
    dense = Layer(split=attention + shape.dense_mlp_params, keys=attention_keys, copied=copied, plain=norms)
    experts = shape.num_experts * shape.expert_params + shape.shared_expert_params
    moe = Layer(split=attention + experts, keys=attention_keys, copied=copied, plain=norms + shape.router_params)
    layers = [dense] * shape.num_dense_layers + [moe] * shape.num_moe_layers
    layers[-1] = replace(layers[-1], plain=layers[-1].plain + shape.hidden_size)  # the final norm
    return Weights(
        layers=tuple(layers),
        embedding=shape.embedding_params,
        head=0 if shape.tie_word_embeddings else shape.head_params,
        vocab_size=shape.vocab_size,
        num_key_value_heads=shape.num_key_value_heads,
        origin="config.json",
    )


def of_tensors(tensors: Mapping[str, Tensor], shape: ModelShape) -> Weights:
    """From safetensors headers, by Hugging Face's names; scales are left out, the precision counts its own."""
    layers = [dict.fromkeys(("split", "keys", "copied", "plain"), 0) for _ in range(shape.num_hidden_layers)]
    embedding = head = 0
    for name, tensor in tensors.items():
        count = _parameters(tensor)
        if name.endswith(_SCALES):
            continue
        if name.endswith(_EMBEDDING):
            embedding += count
        elif name.endswith(_HEAD):
            head += count
        elif match := _LAYER.search(name):
            index = int(match[1] or match[2])
            if index < len(layers):  # what lies beyond predicts further tokens, and is not loaded to serve
                layers[index][_kind(name, tensor)] += count
        else:  # the final norm; of models that see, their encoder
            layers[-1]["plain"] += count
    return Weights(
        layers=tuple(Layer(**row) for row in layers),
        embedding=embedding,
        head=0 if shape.tie_word_embeddings else head,
        vocab_size=shape.vocab_size,
        num_key_value_heads=shape.num_key_value_heads,
        origin="safetensors headers",
    )


@functools.lru_cache(maxsize=4096)
def on_fullest_rank(weights: Weights, tp_size: int, pp_size: int) -> RankWeights:
    """The largest stage's rank. The first stage holds the embedding, the last one the head.

    A tied head is stored again as soon as there is more than one rank, as TensorRT-LLM's checkpoints do.
    """
    head = weights.head or (weights.embedding if tp_size * pp_size > 1 else 0)
    padded = -(-weights.vocab_size // tp_size) * (head // max(weights.vocab_size, 1))
    stages = [_stage(weights, stage, tp_size, pp_size) for stage in range(pp_size)]
    filled = [
        RankWeights(
            linear=linear,
            plain=plain,
            embedding=weights.embedding if stage == 0 else 0,
            head=padded if stage == pp_size - 1 else 0,
        )
        for stage, (linear, plain) in enumerate(stages)
    ]
    return max(filled, key=lambda rank: rank.linear + rank.plain + rank.embedding + rank.head)


def _stage(weights: Weights, stage: int, tp_size: int, pp_size: int) -> tuple[int, int]:
    """(quantized, plain) parameters of one rank of a stage; the first stages take what does not divide evenly."""
    count, rest = divmod(len(weights.layers), pp_size)
    start = stage * count + min(stage, rest)
    layers = weights.layers[start : start + count + (stage < rest)]
    heads = weights.num_key_value_heads
    keys = sum(row.keys for row in layers) * -(-heads // tp_size) // heads
    split = -(-sum(row.split for row in layers) // tp_size)
    return split + keys + sum(row.copied for row in layers), sum(row.plain for row in layers)


def _parameters(tensor: Tensor) -> int:
    per_byte = _ITEMS_PER_BYTE.get(tensor.dtype)
    return math.prod(tensor.shape) if per_byte is None else tensor.size_bytes * per_byte


def _kind(name: str, tensor: Tensor) -> str:
    if len(tensor.shape) < 2 or name.endswith(_ROUTERS):
        return "plain"
    if name.endswith(_KEYS):
        return "keys"
    return "copied" if name.endswith(_COPIED) else "split"
