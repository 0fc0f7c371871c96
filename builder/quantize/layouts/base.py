"""What the streaming runner needs of an output layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from builder.quantize.formats import PLAIN, Format, Part
from builder.quantize.raw import RawTensor

VECTOR = Part(dtype=None, rows=1)
"""A norm or a bias: an element for each row."""

SCALAR = Part(dtype="F32")
"""One number, such as the scale of all keys of a layer."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor that the runner hands over, under its Hugging Face name."""

    dtype: str
    shape: tuple[int, ...]
    part: Part  # how many rows and columns of `weight` stand behind one element
    weight: str  # the tensor whose place it shares; itself, if it is no part of a linear
    format: Format = PLAIN  # of the linear


Entries = Mapping[str, Entry]
"""By Hugging Face name, in the order of the model."""


class LayoutWriter(Protocol):
    """Files that take tensors one by one, by Hugging Face name, in any order.

    `entries` is all that has to be written, `written` what a killed run had flushed before this one resumed it.
    """

    entries: Entries
    written: frozenset[str]

    def write(self, name: str, raw: RawTensor) -> None:
        """Put one tensor wherever the layout wants it."""

    def flush(self) -> None:
        """Make durable what was written: a run that is killed from here on can be resumed from here."""

    def close(self) -> None:
        """End all files and write what describes them. Nothing is complete before."""

    def abandon(self) -> None:
        """Let go of all files after an error."""
