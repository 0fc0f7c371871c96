"""What the streaming runner needs of an output layout."""

from __future__ import annotations

from typing import Protocol

from builder.quantize.raw import RawTensor


class LayoutWriter(Protocol):
    """Files that take tensors one by one, by Hugging Face name, in any order."""

    def write(self, name: str, raw: RawTensor) -> None:
        """Put one tensor wherever the layout wants it."""

    def close(self) -> None:
        """End all files and write what describes them. Nothing is complete before."""

    def abandon(self) -> None:
        """Let go of all files after an error."""
