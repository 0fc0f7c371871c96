"""What a rule between build flags looks at, and what it can say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.plan import BuildFlags


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the rules look at."""

    flags: BuildFlags
    quant_algo: str | None  # upstream's QuantAlgo of the weights
    kv_quant_algo: str | None
    sm: int  # compute capability, 90 for 9.0
    architecture: str
    tp_size: int
    max_position_embeddings: int
    rope_factor: float  # what upstream multiplies the positions with


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule has to say. Upstream raises (`refused`), or sets `changes` (flag → value) without being asked."""

    text: str
    refused: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One of upstream's rules. `id` is its number in the documentation of this kit."""

    id: int
    text: str
    find: Callable[[Facts], Iterator[Finding]]
