"""What an algorithm gets to solve, and what it gives back: the linears that read one input, and their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from builder.quantize.formats import Format, Role
from builder.quantize.raw import RawTensor

Tensor = Any
"""A torch tensor; torch is imported only where it computes."""

Parts = Mapping[Role, RawTensor]


@dataclass(frozen=True, kw_only=True)
class LinearTask:
    """One linear [rows, columns]."""

    module: str  # "model.layers.0.self_attn.q_proj"
    rows: int
    columns: int
    format: Format
    raw: Callable[[], RawTensor]  # the bits of the checkpoint, a view of the file
    weight: Callable[[], Tensor]  # float32 [rows, columns] on the compute device; never written to


@dataclass(frozen=True, kw_only=True)
class GroupTask:
    """Linears that read one input, in the family's order: q, k, v; or gate, up; or one alone."""

    linears: tuple[LinearTask, ...]
    share_scales: bool  # scales of a whole tensor must be equal among them
    norm: Callable[[], Tensor] | None = None  # effective float32 weight of the norm before them


@dataclass(frozen=True, kw_only=True)
class InputStatistics:
    """Of the input of one group over all calibration tokens; float32, on the compute device."""

    tokens: int
    amax: Tensor  # [columns] largest |x|
    mean_abs: Tensor  # [columns] mean |x|
    gram: Tensor | None = None  # [columns, columns] XᵀX, where the algorithm asks for it


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """The recipe's numbers."""

    dtype: str  # half precision of what is not quantized: "float16", "bfloat16"
    smoothquant_alpha: float = 0.9
    awq_clip: bool = True


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Every part of every linear by module, and the new effective norm weight (float32) where scales were folded."""

    parts: Mapping[str, Parts]
    norm: Tensor | None = None
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by module: "relative_error", ...


class Algorithm(Protocol):
    """A module is an implementation; a new one is a file and a row of ALGORITHMS."""

    STATISTICS: frozenset[str]
    """Of the input: "amax" (amax and mean_abs), "gram". Empty: it needs no calibration."""

    def solve(self, group: GroupTask, statistics: InputStatistics | None, knobs: Knobs) -> Solution:
        """Quantize a group. SpecError naming the tensor for NaN, infinity or an input that was never seen.

        Deterministic: the same task gives the same bytes on any number of threads.
        """
