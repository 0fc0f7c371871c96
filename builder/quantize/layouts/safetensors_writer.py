"""A safetensors file written piece by piece: the header first, then each at its place, nothing kept in memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from builder.safetensors_index import ITEM_BYTES
from trtllm_kit.errors import IntegrityError

if TYPE_CHECKING:
    from builder.quantize.raw import RawTensor

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Safetensors dtype and shape by tensor name."""

_ALIGNMENT_BYTES = 8
_WRITE_BYTES = 1 << 26


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Size of a tensor's data."""
    return math.prod(shape) * ITEM_BYTES[dtype]


class SafetensorsWriter:
    """The bytes depend on `tensors` and on the data alone, not on the order of the writes.

    The disk space is taken when the file is opened, so that a disk too small is found before the work and not after.
    """

    def __init__(self, path: Path, tensors: Tensors, *, resume: bool = False) -> None:
        self._tensors, self._offsets = tensors, {}  # type: Tensors, dict[str, int]
        head, size = self._lay_out()
        self._start = len(head)
        flags = os.O_RDWR if resume else os.O_CREAT | os.O_EXCL | os.O_RDWR
        self._file = os.open(path, flags, 0o644)
        try:
            if not resume:
                os.posix_fallocate(self._file, 0, len(head) + size)
                self._put(0, memoryview(head))
            elif os.pread(self._file, len(head), 0) != head:
                raise IntegrityError(
                    f"{path} was begun for other tensors", expected="a file of the same run", fix="remove it"
                )
        except BaseException:
            self.abandon()
            raise

    def write(self, name: str, raw: RawTensor, *, at_element: int = 0) -> None:
        """Write `raw` into the tensor `name` from its element `at_element` on, in row-major order."""
        import numpy as np

        dtype, shape = self._tensors[name]
        if raw.dtype != dtype or at_element + raw.array.size > math.prod(shape):
            raise RuntimeError(f"{raw.dtype} {raw.array.shape} does not fit {name} {dtype} {shape} at {at_element}")
        data = np.ascontiguousarray(raw.array).reshape(-1).view(np.uint8).data
        self._put(self._position(name, at_element), data)

    def read(self, name: str, count: int, *, at_element: int = 0) -> bytes:
        """The bytes of `count` elements that were written before."""
        return os.pread(self._file, count * ITEM_BYTES[self._tensors[name][0]], self._position(name, at_element))

    def flush(self) -> None:
        """Bring what was written to the disk."""
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)

    abandon = close

    def _lay_out(self) -> tuple[bytes, int]:
        """(the file's head, bytes of data after it); wide items first, so that readers may map each as it lies."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, (dtype, shape) in sorted(self._tensors.items(), key=lambda item: -ITEM_BYTES[item[1][0]]):
            size = tensor_bytes(dtype, shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            self._offsets[name] = at
            at += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT_BYTES)
        return len(text).to_bytes(8, "little") + text, at

    def _position(self, name: str, at_element: int) -> int:
        return self._start + self._offsets[name] + at_element * ITEM_BYTES[self._tensors[name][0]]

    def _put(self, at: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self._file, data[:_WRITE_BYTES], at)
            data, at = data[written:], at + written
