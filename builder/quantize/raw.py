"""Tensors as they lie in files: numpy arrays of bits with a safetensors dtype, so that copies and slices need no torch.

numpy has no bfloat16, hence BF16 and F16 alike are held as 16-bit integers and F32 as 32-bit ones.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.checkpoint import TensorEntry
from builder.safetensors_index import read_header
from trtllm_kit.errors import IntegrityError, SpecError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

SAFETENSORS_DTYPE = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
NUMPY_DTYPE = {
    "BF16": "uint16", "F16": "uint16", "F32": "uint32", "I8": "int8", "U8": "uint8", "F8_E4M3": "uint8",
    "I32": "int32", "I64": "int64",
}  # fmt: skip
_EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}  # all ones: infinity or NaN
_BLOCK_ITEMS = 1 << 18  # a block and its temporaries stay in the processor's cache


@dataclass(frozen=True)
class RawTensor:
    """`array` holds the bits, in `NUMPY_DTYPE[dtype]`."""

    dtype: str
    array: Array

    def blocks(self, multiple: int = 1) -> list[slice]:
        """Whole rows, in pieces that stay in a processor's cache with what is computed from them.

        Args:
            multiple: of rows in each piece but the last.
        """
        length = self.array.shape[0]
        step = max(1, _BLOCK_ITEMS * length // max(1, self.array.size) // multiple) * multiple
        return [slice(start, min(start + step, length)) for start in range(0, length, step)]


class TensorSource:
    """Memory-mapped tensors of a checkpoint by name. Pages are read when used and dropped by the kernel as it likes."""

    def __init__(self, tensors: Mapping[str, TensorEntry]) -> None:
        self._tensors = tensors
        self._maps: dict[Path, mmap.mmap] = {}

    def read(self, name: str) -> RawTensor:
        """A view of the file; valid as long as anything refers to it."""
        import numpy as np

        entry = self._tensors[name]
        count = entry.size_bytes // np.dtype(NUMPY_DTYPE[entry.dtype]).itemsize
        bits = np.frombuffer(self._map(entry.file), dtype=NUMPY_DTYPE[entry.dtype], count=count, offset=entry.start)
        return RawTensor(dtype=entry.dtype, array=bits.reshape(entry.shape))

    def _map(self, file: Path) -> mmap.mmap:
        """Reading past the end of a mapped file kills the process, so the header is checked again before that."""
        if file not in self._maps:
            known = {name: entry for name, entry in self._tensors.items() if entry.file == file}
            if any(read_header(file).get(name) != entry for name, entry in known.items()):
                raise IntegrityError(
                    f"{file} changed after it was checked", expected="files that stay as they are", fix="run it again"
                )
            with file.open("rb") as opened:
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[file]


def is_finite(raw: RawTensor) -> bool:
    """Whether no element of a float tensor is NaN or infinite, told by the bits: several times faster than in torch."""
    import numpy as np

    mask = _EXPONENT[raw.dtype] << 1
    flat = raw.array.reshape(-1)
    starts = range(0, flat.size, _BLOCK_ITEMS)
    return all(int(np.left_shift(flat[start : start + _BLOCK_ITEMS], 1).max()) < mask for start in starts)


def not_finite(name: str) -> SpecError:
    return SpecError(
        f"{name} holds NaN or infinite weights",
        expected="finite numbers",
        fix="fetch the checkpoint again; if its author's digests agree, training diverged and it cannot be used",
    )


def to_float32(raw: RawTensor) -> npt.NDArray[np.float32]:
    """The exact values as float32; BF16, F16, F32 and I8."""
    import numpy as np

    if raw.dtype == "F32":
        return raw.array.view(np.float32)
    if raw.dtype == "F16":
        return raw.array.view(np.float16).astype(np.float32)
    if raw.dtype == "BF16":
        return (raw.array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.array.astype(np.float32)
