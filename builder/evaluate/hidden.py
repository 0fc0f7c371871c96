"""Hidden states of documents of any length, in a mapped file: the kernel spills what memory cannot hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from builder.quantize.calibration.mapped import mapped
from builder.quantize.problem import Tensor


class HiddenStates:
    """float32, one document after the other. `states[number]` [tokens, hidden] is the file itself."""

    def __init__(self, path: Path, lengths: Sequence[int], hidden_size: int) -> None:
        self._ends = list(itertools.accumulate(lengths))
        self._lengths = lengths
        self._all = mapped(path, (sum(lengths), hidden_size), "float32")

    def __getitem__(self, number: int) -> Tensor:
        return self._all[self._ends[number] - self._lengths[number] : self._ends[number]]

    def put(self, number: int, values: Tensor) -> None:
        """Write `values` [tokens, hidden] of one document."""
        self[number].copy_(values)
