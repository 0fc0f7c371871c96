"""Hidden states of documents of any length, in a mapped file: the kernel spills what memory cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.quantize.problem import Tensor


class HiddenStates:
    """float32, one document after the other. `states[number]` [tokens, hidden] is the file itself."""

    def __init__(self, path: Path, lengths: Sequence[int], hidden_size: int) -> None:
        import torch

        self._ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
        self._lengths = lengths
        size = sum(lengths) * hidden_size
        self._all: Any = torch.from_file(str(path), shared=True, size=size, dtype=torch.float32).view(-1, hidden_size)

    def __getitem__(self, number: int) -> Tensor:
        return self._all[self._ends[number] - self._lengths[number] : self._ends[number]]

    def put(self, number: int, values: Tensor) -> None:
        """Write `values` [tokens, hidden] of one document."""
        self[number].copy_(values)
