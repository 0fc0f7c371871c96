"""What a rank's memory goes to, line by line and in closed form, and the largest limits that still fit.

The sizes of weights and KV cache are exact. Activations, buffers and reserves are upper bounds that hold for the
allocations which TensorRT-LLM itself has logged (tests/profiles/test_ledger.py has them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from profiles import buffers, kv
from profiles import weights as weight_counts
from profiles.model_shape import ModelShape
from profiles.skus import Sku
from profiles.weights import Weights

MIB = 1 << 20
_CONTEXT_BYTES = 802 * MIB  # CUDA context and kernels: what is left of NVIDIA's own log after all that it names
_DRIVER_SHARE = 0.0125  # of the memory that NVML reports; an H100 of 80 GiB offers 79.1 to processes
_WORKSPACE_BYTES = 288 * MIB  # GEMM plugin 32 MiB, attention up to 235 MB (logged at 262,144 tokens)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The build's limits, by upstream's names, and how the KV cache is kept."""

    max_batch_size: int = 64
    max_num_tokens: int = 8192
    max_seq_len: int = 8192
    kv_bits: float = 16
    tokens_per_block: int = 32
    free_gpu_memory_fraction: float = 0.9  # of what all else leaves, goes to the KV pool
    runtime: str = "tensorrt"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One model on one number of GPUs."""

    shape: ModelShape
    weight_bits: float  # of a precision, its scales included
    sku: Sku
    tp_size: int = 1
    pp_size: int = 1
    limits: Limits = field(default_factory=Limits)
    weights: Weights | None = None  # from a checkpoint's headers; None: from the shape
    draft: ModelShape | None = None  # a draft model, kept in 16 bits beside the model, with KV cache of its own

    def with_limits(self, **changes: float) -> Placement:
        """The same with other limits."""
        return replace(self, limits=replace(self.limits, **changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Line:
    """One entry; `how` is its closed form with the numbers."""

    name: str
    size_bytes: int
    how: str


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Bytes on the fullest rank."""

    lines: tuple[Line, ...]  # all but the KV cache
    kv_token_bytes: float
    limits: Limits
    capacity_bytes: int | None  # the GPU's memory; None when it is not known

    @property
    def used_bytes(self) -> int:
        """Everything but the KV cache."""
        return sum(line.size_bytes for line in self.lines)

    @property
    def block_bytes(self) -> float:
        """One KV block."""
        return self.kv_token_bytes * self.limits.tokens_per_block

    @property
    def sequence_bytes(self) -> int:
        """KV cache of one sequence of `max_seq_len`, in whole blocks."""
        return math.ceil(self.block_bytes * _blocks(self.limits.max_seq_len, self.limits.tokens_per_block))

    @property
    def kv_pool_bytes(self) -> float:
        """What the KV cache may take; infinite where the memory is not known."""
        if self.capacity_bytes is None:
            return math.inf
        return max(0.0, (self.capacity_bytes - self.used_bytes) * self.limits.free_gpu_memory_fraction)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the pool holds, in whole blocks."""
        return int(self.kv_pool_bytes // self.block_bytes) * self.limits.tokens_per_block

    @property
    def fits(self) -> bool:
        """Whether one full sequence fits beside all else."""
        return self.sequence_bytes <= self.kv_pool_bytes

    @property
    def short_bytes(self) -> int:
        """How many bytes are missing; 0 when it fits."""
        if self.capacity_bytes is None or self.fits:
            return 0
        needed = self.used_bytes + math.ceil(self.sequence_bytes / self.limits.free_gpu_memory_fraction)
        return needed - self.capacity_bytes


def ledger(place: Placement) -> Ledger:
    """What the fullest rank holds."""
    return Ledger(
        lines=(*_weight_lines(place), *_buffer_lines(place), *_draft_lines(place), *_reserve_lines(place)),
        kv_token_bytes=_kv_token_bytes(place),
        limits=place.limits,
        capacity_bytes=place.sku.memory_bytes,
    )


def largest_batch(place: Placement, tokens: int) -> int:
    """The largest `max_batch_size` whose sequences all hold `tokens` tokens at once; 0 when not even one fits.

    The pool shrinks with the batch by its sampling buffers, so with B sequences: B × blocks × block bytes ≤ fraction ×
    (free at batch 0 - B × buffer bytes), solved for B.
    """
    empty = ledger(place.with_limits(max_batch_size=0))
    if empty.capacity_bytes is None:
        raise ValueError("a SKU without a known memory has no largest batch")
    fraction = place.limits.free_gpu_memory_fraction
    sequence = _blocks(tokens, place.limits.tokens_per_block) * empty.block_bytes
    each = sequence + fraction * place.shape.vocab_size * buffers.entry_bytes(place.limits.runtime)
    return max(0, math.floor(fraction * (empty.capacity_bytes - empty.used_bytes) / each))


def largest_num_tokens(place: Placement) -> int:
    """The largest `max_num_tokens`, in whole blocks, that leaves KV cache for one full sequence; 0: none does."""
    none = ledger(place.with_limits(max_num_tokens=0))
    if none.capacity_bytes is None:
        raise ValueError("a SKU without a known memory has no largest max_num_tokens")
    room = none.capacity_bytes - none.used_bytes - none.sequence_bytes / place.limits.free_gpu_memory_fraction
    each = buffers.activation_bytes(place.shape, place.tp_size)
    each += buffers.exchange_bytes(place.shape, place.tp_size, place.pp_size)
    blocks = math.floor(room / each / place.limits.tokens_per_block)
    return max(0, blocks * place.limits.tokens_per_block)


def largest_seq_len(place: Placement) -> int:
    """The longest sequence that fits alone, in whole blocks; 0 when none does."""
    return ledger(place).kv_tokens


def tp_sizes(shape: ModelShape, largest: int = 64) -> list[int]:
    """TP sizes that divide the attention heads."""
    return [size for size in range(1, largest + 1) if shape.num_attention_heads % size == 0]


def _blocks(tokens: int, tokens_per_block: int) -> int:
    return -(-tokens // tokens_per_block)


def _weight_lines(place: Placement) -> list[Line]:
    rank = weight_counts.on_fullest_rank(_weights(place), place.tp_size, place.pp_size)
    stored = math.floor(place.weight_bits)
    scale_bits = place.weight_bits - stored
    spread = f"tp{place.tp_size}pp{place.pp_size}"
    lines = [
        _line("linear weights", rank.linear * stored / 8, f"{rank.linear:,} on a rank of {spread} × {stored} bits"),
        _line("embedding", rank.embedding * buffers.DTYPE_BYTES, f"{rank.embedding:,} × 16 bits"),
        _line("head", rank.head * buffers.DTYPE_BYTES, f"{rank.head:,}, rows padded to tp{place.tp_size}, × 16 bits"),
        _line("norms, biases, routers", rank.plain * buffers.DTYPE_BYTES, f"{rank.plain:,} × 16 bits"),
    ]
    if scale_bits:
        lines.insert(1, _line("scales", rank.linear * scale_bits / 8, f"{rank.linear:,} × {scale_bits:g} bits"))
    return [line for line in lines if line.size_bytes]


def _buffer_lines(place: Placement) -> list[Line]:
    limits, shape = place.limits, place.shape
    activation = buffers.activation_bytes(shape, place.tp_size)
    exchange = buffers.exchange_bytes(shape, place.tp_size, place.pp_size)
    entry = buffers.entry_bytes(limits.runtime)
    tokens, batch = limits.max_num_tokens, limits.max_batch_size
    return [
        _line("activations", tokens * activation, f"max_num_tokens {tokens:,} × {activation:,} bytes"),
        _line(
            "logits and sampling",
            batch * shape.vocab_size * entry,
            f"max_batch_size {batch:,} × {shape.vocab_size:,} entries × {entry} bytes",
        ),
        *([_line("exchange buffers", tokens * exchange, f"{tokens:,} × {exchange:,} bytes")] if exchange else []),
    ]


def _draft_lines(place: Placement) -> list[Line]:
    if place.draft is None:
        return []
    rank = weight_counts.on_fullest_rank(weight_counts.of_shape(place.draft), place.tp_size, place.pp_size)
    count = rank.linear + rank.plain + rank.embedding + rank.head
    return [_line("draft model", count * buffers.DTYPE_BYTES, f"{count:,} × 16 bits")]


def _reserve_lines(place: Placement) -> list[Line]:
    capacity = place.sku.memory_bytes
    if capacity is None:
        return []
    return [
        _line("workspace", _WORKSPACE_BYTES, "GEMM and attention"),
        _line("CUDA context", _CONTEXT_BYTES, "context and kernels"),
        _line("driver", capacity * _DRIVER_SHARE, f"{_DRIVER_SHARE:.2%} of the memory"),
    ]


def _line(name: str, size: float, how: str) -> Line:
    return Line(name, math.ceil(size), how)


def _weights(place: Placement) -> Weights:
    return place.weights or weight_counts.of_shape(place.shape)


def _kv_token_bytes(place: Placement) -> float:
    bits, tp, pp = place.limits.kv_bits, place.tp_size, place.pp_size
    own = kv.token_bytes(place.shape, bits, tp, pp)
    return own + (kv.token_bytes(place.draft, bits, tp, pp) if place.draft else 0)
