"""Which tensors of a layout have been written: each exactly once, also by a run that was killed and resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from builder.quantize.layouts.base import Entries
from builder.quantize.layouts.safetensors_writer import SafetensorsWriter
from builder.quantize.raw import RawTensor

JOURNAL_NAME = ".written"


class Ledger:
    """Checks every write and remembers it, in a journal beside the files with a line for each flush.

    A write that breaks its rules is a bug of the caller, hence RuntimeError.
    """

    def __init__(self, folder: Path, entries: Entries, *, resume: bool) -> None:
        self._path, self._entries = folder / JOURNAL_NAME, entries
        self.flushed = frozenset(_read(self._path)) if resume else frozenset[str]()
        self._written, self._new = set(self.flushed), []  # type: set[str], list[str]

    def admit(self, name: str, raw: RawTensor) -> None:
        """Take note of a tensor that is about to be written."""
        entry = self._entries.get(name)
        if entry is None or name in self._written:
            raise RuntimeError(f"{name} is written twice" if entry else f"{name} has no place")
        if (raw.dtype, raw.array.shape) != (entry.dtype, entry.shape):
            raise RuntimeError(f"{name} is {raw.dtype} {raw.array.shape}, not {entry.dtype} {entry.shape}")
        self._written.add(name)
        self._new.append(name)

    def flush(self, writers: Iterable[SafetensorsWriter]) -> None:
        """Bring the files to the disk, then the names of what is in them."""
        for writer in writers:
            writer.flush()
        with self._path.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(self._new) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._new = []

    def close(self) -> None:
        """End the journal; RuntimeError when a tensor is missing."""
        missing = [name for name in self._entries if name not in self._written]
        if missing:
            raise RuntimeError(f"{len(missing)} tensors were not written: {missing[:4]}")
        self._path.unlink(missing_ok=True)


def can_resume(folder: Path) -> bool:
    """Whether a killed run left files here that can be written on."""
    return (folder / JOURNAL_NAME).is_file()


def _read(path: Path) -> list[str]:
    """All names but those of a last line that was cut short."""
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [name for line in whole for name in json.loads(line)]
