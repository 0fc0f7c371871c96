"""Will the weights and one full sequence fit into a GPU? A closed form that only refuses what certainly cannot fit.

Nothing is added for activations, CUDA context and workspaces: what passes here may still be tight, what is refused
here cannot run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from profiles.skus import Sku
from trtllm_kit.errors import FitError

_GB = 10**9
_LARGEST_TP = 64


class ModelShape(Protocol):
    """The counts that decide how large a decoder-only model is."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def tie_word_embeddings(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Bytes on the fullest rank."""

    linear_bytes: int  # attention and MLP weights with their scales
    embedding_bytes: int  # embedding and head, always 16 bits
    kv_bytes: int  # of one sequence of `max_seq_len` tokens
    capacity_bytes: int | None  # the GPU's memory; None when it is not known

    @property
    def weights_bytes(self) -> int:
        """All weights of the rank."""
        return self.linear_bytes + self.embedding_bytes

    @property
    def total_bytes(self) -> int:
        """Weights and one sequence."""
        return self.weights_bytes + self.kv_bytes

    @property
    def fits(self) -> bool:
        """Whether it is not certain that this cannot run."""
        return self.capacity_bytes is None or self.total_bytes < self.capacity_bytes


def ledger(
    shape: ModelShape,
    weight_bits: float,
    sku: Sku,
    tp_size: int = 1,
    pp_size: int = 1,
    *,
    max_seq_len: int = 0,
    kv_bits: float = 16,
) -> Ledger:
    """What the fullest rank holds. `weight_bits` is a precision's, scales included; `max_seq_len` in tokens."""
    layers = -(-shape.num_hidden_layers // pp_size)
    tables = 1 if shape.tie_word_embeddings or pp_size > 1 else 2  # with a pipeline, no rank has both
    kv_heads = -(-shape.num_key_value_heads // tp_size)
    return Ledger(
        linear_bytes=int(layers * _layer_weights(shape, tp_size) * weight_bits / 8),
        embedding_bytes=tables * 2 * shape.vocab_size * shape.hidden_size // tp_size,
        kv_bytes=int(2 * layers * kv_heads * shape.head_size * max_seq_len * kv_bits / 8),
        capacity_bytes=sku.memory_bytes,
    )


def check_fits(
    shape: ModelShape,
    weight_bits: float,
    sku: Sku,
    tp_size: int = 1,
    pp_size: int = 1,
    *,
    max_seq_len: int = 0,
    kv_bits: float = 16,
) -> Ledger:
    """The ledger, when it fits; FitError with its lines and the smallest change that fits."""
    at = partial(ledger, shape, weight_bits, sku, pp_size=pp_size, max_seq_len=max_seq_len, kv_bits=kv_bits)
    made = at(tp_size=tp_size)
    if made.fits:
        return made
    wider = next((size for size in _tp_sizes(shape) if at(tp_size=size).fits), None)
    change = f"set target.tp_size to {wider}" if wider else "choose a SKU with more memory, or set target.pp_size"
    if made.capacity_bytes is not None and made.weights_bytes < made.capacity_bytes:
        change += ", or lower build.max_seq_len"
    raise FitError(
        f"the model does not fit on {sku.id} with tp{tp_size}pp{pp_size}: {_lines(made, max_seq_len)}",
        expected="weights and one full sequence below the memory of each GPU",
        fix=f"{change}, or choose a precision with fewer bits than {weight_bits:g}",
    )


def smallest_tp(
    shape: ModelShape, weight_bits: float, sku: Sku, pp_size: int = 1, *, max_seq_len: int = 0, kv_bits: float = 16
) -> int:
    """The fewest GPUs per pipeline stage that hold the model; FitError when no size does."""
    sizes = _tp_sizes(shape)
    at = partial(ledger, shape, weight_bits, sku, pp_size=pp_size, max_seq_len=max_seq_len, kv_bits=kv_bits)
    chosen = next((size for size in sizes if at(tp_size=size).fits), sizes[-1])
    check_fits(shape, weight_bits, sku, chosen, pp_size, max_seq_len=max_seq_len, kv_bits=kv_bits)
    return chosen


def _tp_sizes(shape: ModelShape) -> list[int]:
    """TP sizes that divide the attention heads."""
    return [size for size in range(1, _LARGEST_TP + 1) if shape.num_attention_heads % size == 0]


def _layer_weights(shape: ModelShape, tp_size: int) -> int:
    """Weights of one decoder layer's linears on one rank; ranks beyond the KV heads hold copies of them."""
    queries = shape.num_attention_heads * shape.head_size // tp_size
    keys = -(-shape.num_key_value_heads // tp_size) * shape.head_size
    attention = shape.hidden_size * (2 * queries + 2 * keys)
    return attention + 3 * shape.hidden_size * shape.intermediate_size // tp_size


def _lines(made: Ledger, max_seq_len: int) -> str:
    capacity = made.capacity_bytes or 0
    return (
        f"{made.linear_bytes / _GB:.2f} GB linear weights + {made.embedding_bytes / _GB:.2f} GB embedding and head"
        f" + {made.kv_bytes / _GB:.2f} GB KV cache of one sequence of {max_seq_len} tokens"
        f" = {made.total_bytes / _GB:.2f} GB on the fullest rank, of {capacity / _GB:.2f} GB"
    )
