"""What the inputs of linears look like over all calibration tokens, the same to the bit however the work is spread.

The largest values may be found in any order. Sums may not: they are kept by chunk, or in tiles that one thread each
adds to in the order of the tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builder.quantize.calibration.mapped import mapped
from builder.quantize.problem import InputStatistics, Tensor
from trtllm_kit.errors import SpecError

WAVE_TOKENS = 4096
"""The Gram matrix takes up the inputs of so many tokens at once, or of one chunk where that is longer."""

_TILE = 1024  # features on a side of what one product adds to the Gram matrix


class InputObserver:
    """Statistics of one input [tokens, columns] that comes in chunks, from several threads at once."""

    def __init__(self, columns: int, chunks: int, device: str, gram: GramMatrix | None = None) -> None:
        import torch

        self._amax = torch.zeros(chunks, columns, device=device)
        self._sum = torch.zeros(chunks, columns, device=device)
        self._tokens = [0] * chunks
        self.gram = gram

    def see(self, chunk: int, *inputs: Tensor) -> None:
        """Take up what the linear reads for one chunk: [..., columns]."""
        rows = inputs[0].flatten(0, -2).float()
        size = rows.abs()
        self._amax[chunk], self._sum[chunk], self._tokens[chunk] = size.amax(dim=0), size.sum(dim=0), len(rows)
        if self.gram is not None:
            self.gram.put(chunk, rows)

    def statistics(self, name: str) -> InputStatistics:
        """Of all chunks. SpecError naming the linear for NaN or infinity."""
        amax, tokens = self._amax.amax(dim=0), sum(self._tokens)
        if not amax.isfinite().all():
            raise not_finite(name)
        return InputStatistics(
            tokens=tokens,
            amax=amax,
            mean_abs=(self._sum.double().sum(dim=0) / max(1, tokens)).float(),
            gram=None if self.gram is None else self.gram.result(),
        )


class GramMatrix:
    """XᵀX [columns, columns] of an input, a wave of chunks at a time.

    Args:
        wave_chunks, chunk_tokens: of a wave; all chunks but the last have so many tokens.
        buffer: a file that keeps a wave's inputs until they are multiplied, out of the process's own memory.
    """

    def __init__(self, columns: int, wave_chunks: int, chunk_tokens: int, device: str, buffer: Path) -> None:
        import torch

        self._gram = torch.zeros(columns, columns, device=device)
        self._columns, self._wave_chunks, self._chunk_tokens = columns, wave_chunks, chunk_tokens
        self._filled = [0] * wave_chunks
        shape = (wave_chunks * chunk_tokens, columns)
        on_cpu = device == "cpu"
        self._inputs: Tensor = mapped(buffer, shape, "float32") if on_cpu else torch.empty(shape, device=device)

    def put(self, chunk: int, rows: Tensor) -> None:
        place = chunk % self._wave_chunks
        at = place * self._chunk_tokens
        self._inputs[at : at + len(rows)] = rows
        self._filled[place] = len(rows)

    def products(self) -> Iterator[Callable[[], None]]:
        """What is to be done at the end of a wave, in any order and at once."""
        inputs = self._inputs[: sum(self._filled)]
        self._filled = [0] * self._wave_chunks
        for row in range(0, self._columns, _TILE):
            for column in range(row, self._columns, _TILE):
                tile = self._gram[row : row + _TILE, column : column + _TILE]
                left, right = inputs[:, row : row + _TILE].T, inputs[:, column : column + _TILE]
                yield partial(tile.addmm_, left, right)

    def result(self) -> Tensor:
        """The whole matrix: only tiles on and right of the diagonal were computed."""
        for row in range(0, self._columns, _TILE):
            below = slice(row + _TILE, None)
            self._gram[below, row : row + _TILE] = self._gram[row : row + _TILE, below].T
        return self._gram


class CacheObserver:
    """Stands in for a layer's KV cache: sees keys and values as they would be kept, rotated, and keeps none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, *_rest: Any, **_more: Any) -> tuple[Tensor, Tensor]:
        """transformers' `Cache.update`."""
        largest = (keys.abs().amax().float(), values.abs().amax().float())
        with self._lock:
            self._seen.append(largest)
        return keys, values

    def amax(self, name: str) -> tuple[Tensor, Tensor]:
        """Largest magnitudes of keys and values; SpecError naming the layer for NaN or infinity."""
        import torch

        k_amax, v_amax = (torch.stack(column).amax() for column in zip(*self._seen, strict=True))
        if not (k_amax.isfinite() and v_amax.isfinite()):
            raise not_finite(f"the attention of {name}")
        return k_amax, v_amax


def not_finite(name: str) -> SpecError:
    return SpecError(
        f"the activations that {name} reads are NaN or infinite",
        expected="finite numbers on every calibration token",
        fix="check that the checkpoint answers sensibly in transformers",
    )
