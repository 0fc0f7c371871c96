"""Hidden states of all samples between two layers: a mapped file, so that the kernel spills what memory cannot hold."""

from __future__ import annotations

from pathlib import Path

from builder.quantize.calibration.mapped import mapped
from builder.quantize.problem import Tensor

CHUNK_TOKENS = 512
"""Samples are computed together up to this many tokens. Fixed, for a product's last bits depend on its shape."""


class HiddenStates:
    """[samples, length, hidden] in the file `path`: no page of it counts as the process's own memory.

    Args:
        device: where they are computed with.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], *, dtype: str, device: str) -> None:
        self.shape, self._device = shape, device
        self._states = mapped(path, shape, dtype)

    def read(self, samples: slice) -> Tensor:
        """On the device; a view where that is the CPU."""
        return self._states[samples].to(self._device)

    def write(self, samples: slice, states: Tensor) -> None:
        self._states[samples] = states

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """[tokens, hidden] by number among all tokens."""
        return self._states.flatten(0, 1)[tokens].to(self._device)

    def write_tokens(self, first: int, states: Tensor) -> None:
        """The states [tokens, hidden] of the tokens from `first` on."""
        self._states.flatten(0, 1)[first : first + len(states)] = states

    def add(self, tokens: Tensor, states: Tensor) -> None:
        """Add to the states of some tokens, each named once."""
        self._states.flatten(0, 1)[tokens] += states.to(self._states.device, self._states.dtype)

    @property
    def chunk_tokens(self) -> int:
        return chunk_tokens(self.shape[1])

    def chunks(self) -> list[slice]:
        """Samples that pass through a layer together: the same whatever the memory or the number of threads."""
        count, step = self.shape[0], self.chunk_tokens // self.shape[1]
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def chunk_tokens(length: int) -> int:
    """Tokens of a chunk of samples of `length` tokens: one sample at least."""
    return max(1, CHUNK_TOKENS // length) * length
