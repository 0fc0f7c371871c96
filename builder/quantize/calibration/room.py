"""Where the weights of a layer lie while it is computed, and how the next layer's come in meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from builder.quantize.calibration.mapped import mapped
from builder.quantize.problem import Tensor

_ALIGNMENT_ITEMS = 64  # a product is slower on weights that begin within a cache line


class Room:
    """Memory that every layer in turn is read into: on the CPU a mapped file, which the kernel may spill."""

    def __init__(self, file: Path, dtype: str, device: str) -> None:
        self._file, self._dtype, self._device = file, dtype, device
        self._items: Tensor | None = None

    def tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Tensors of these shapes, whatever they hold; those of the call before are overwritten."""
        import torch

        starts, total = {}, 0
        for name, shape in shapes.items():
            starts[name] = total
            total += -(-math.prod(shape) // _ALIGNMENT_ITEMS) * _ALIGNMENT_ITEMS
        if self._items is None or self._items.numel() < total:
            if self._device == "cpu":
                self._items = mapped(self._file, (total,), self._dtype)
            else:
                self._items = torch.empty(total, dtype=getattr(torch, self._dtype), device=self._device)
        items = self._items
        return {
            name: items[start : start + math.prod(shapes[name])].view(shapes[name]) for name, start in starts.items()
        }


Fill = Callable[[str, Tensor], None]
"""Write the tensor of that Hugging Face name into a float tensor of its shape, on the compute device."""


class Loader:
    """Reads layer after layer; on a GPU the next one while the last computes, into the other of two rooms.

    On the CPU that would only take time from the computation: there the kernel is told what to read ahead.
    """

    def __init__(self, shapes: Sequence[Mapping[str, tuple[int, ...]]], fill: Fill, rooms: Sequence[Room]) -> None:
        self._shapes, self._fill, self._rooms = shapes, fill, rooms
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._ahead: tuple[int, Future[dict[str, Tensor]]] | None = None

    def take(self, index: int) -> dict[str, Tensor]:
        """The weights of layer `index`, which stay as they are until the next call."""
        number, ahead = self._ahead or (None, None)
        weights = ahead.result() if ahead is not None and number == index else self._read(index)
        self._ahead = None
        if len(self._rooms) > 1 and index + 1 < len(self._shapes):
            self._ahead = (index + 1, self._pool.submit(self._read, index + 1))
        return weights

    def _read(self, index: int) -> dict[str, Tensor]:
        return read_into(self._rooms[index % len(self._rooms)], self._shapes[index], self._fill)


def read_into(room: Room, shapes: Mapping[str, tuple[int, ...]], fill: Fill) -> dict[str, Tensor]:
    """Tensors of the checkpoint, by name, in `room`."""
    tensors = room.tensors(shapes)
    for name, tensor in tensors.items():
        fill(name, tensor)
    return tensors
