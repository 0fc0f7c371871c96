"""A safetensors file written tensor by tensor: the header first, then each at its place, nothing kept in memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from builder.safetensors_index import ITEM_BYTES

if TYPE_CHECKING:
    from builder.quantize.raw import RawTensor

Entries = Mapping[str, tuple[str, tuple[int, ...]]]
"""Safetensors dtype and shape by tensor name."""

_ALIGNMENT_BYTES = 8
_WRITE_BYTES = 1 << 26


def entry_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Size of a tensor's data."""
    return math.prod(shape) * ITEM_BYTES[dtype]


class SafetensorsWriter:
    """The bytes depend on `entries` and on the data alone, not on the order of the writes."""

    def __init__(self, path: Path, entries: Entries) -> None:
        # Wide items first, so that each tensor is aligned for readers that map the file.
        ordered = sorted(entries.items(), key=lambda item: -ITEM_BYTES[item[1][0]])
        self._path, self._offsets, self._left = path, {}, {}  # type: Path, dict[str, int], dict[str, int]
        self._row_bytes = {name: entry_bytes(dtype, shape[1:]) for name, (dtype, shape) in entries.items()}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, (dtype, shape) in ordered:
            size = entry_bytes(dtype, shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            self._offsets[name], self._left[name] = at, size
            at += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT_BYTES)
        self._start = 8 + len(text)
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        self._put(0, memoryview(len(text).to_bytes(8, "little") + text))

    def write(self, name: str, raw: RawTensor, *, at_row: int = 0) -> None:
        """Write `raw` as the rows of `name` from `at_row` on. Every row must be written once before `close`."""
        import numpy as np

        data = np.ascontiguousarray(raw.array).reshape(-1).view(np.uint8).data
        self._put(self._start + self._offsets[name] + at_row * self._row_bytes[name], data)
        self._left[name] -= len(data)

    def close(self) -> None:
        """End the file; RuntimeError when a tensor was not written exactly once, which is a bug of the caller."""
        os.close(self._file)
        wrong = [name for name, left in self._left.items() if left]
        if wrong:
            raise RuntimeError(f"{self._path.name}: not written exactly once: {wrong[:4]}")

    def abandon(self) -> None:
        """Let go of the file after an error; what is there is of no use."""
        os.close(self._file)

    def _put(self, at: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self._file, data[:_WRITE_BYTES], at)
            data, at = data[written:], at + written
