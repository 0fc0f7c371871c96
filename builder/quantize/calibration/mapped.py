"""Tensors that are files: the kernel keeps in memory what it has room for, and spills the rest."""

from __future__ import annotations

import math
import os
from pathlib import Path

from builder.quantize.problem import Tensor


def mapped(path: Path, shape: tuple[int, ...], dtype: str) -> Tensor:
    """A tensor over the file `path`, which is made, or grown, to hold it; what the file held stays.

    The disk space is taken now: a write to a mapped file on a full disk would kill the process without a word.
    """
    import torch

    kind = getattr(torch, dtype)
    items = math.prod(shape)
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, items * kind.itemsize))
    return torch.from_file(str(path), shared=True, size=items, dtype=kind).view(shape)
