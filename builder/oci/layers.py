"""An artifact's parts as tar streams that are the same bytes for the same files, made while they are sent.

Nothing is compressed: engines do not shrink. Nothing is written to disk: a stream can be read again from its start.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from trtllm_kit.errors import IntegrityError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Files of an artifact in one tar, sorted, without times and owners."""

    root: Path
    names: tuple[str, ...]  # relative to `root`

    @cached_property
    def _heads(self) -> tuple[tuple[str, int, bytes], ...]:
        """Name, size in bytes and tar header of every file."""
        rows = []
        for name in self.names:
            info = tarfile.TarInfo(name)
            info.size = (self.root / name).stat().st_size
            rows.append((name, info.size, info.tobuf(tarfile.PAX_FORMAT)))
        return tuple(rows)

    @cached_property
    def size_bytes(self) -> int:
        return sum(len(head) + size + _padding(size) for _, size, head in self._heads) + 2 * tarfile.BLOCKSIZE

    def __len__(self) -> int:
        """What an HTTP client takes the length of the body from."""
        return self.size_bytes

    def __iter__(self) -> Iterator[bytes]:
        for name, size, head in self._heads:
            yield head
            with (self.root / name).open("rb") as file:
                left = size
                while chunk := file.read(min(left, _CHUNK_BYTES)):
                    left -= len(chunk)
                    yield chunk
            if left:
                raise IntegrityError(
                    f"{self.root / name} became shorter while it was read", expected="an artifact that nobody writes to"
                )
            yield bytes(_padding(size))
        yield bytes(2 * tarfile.BLOCKSIZE)

    @cached_property
    def digest(self) -> str:
        """Of the whole tar, "sha256:..."; reads every file once."""
        found = hashlib.sha256()
        for chunk in self:
            found.update(chunk)
        return f"sha256:{found.hexdigest()}"


def layers_of(artifact: Path) -> list[Layer]:
    """A layer for each top folder and a last one for the files beside them.

    `manifest.json`, the signature and what else may change after the build are all in that last, small layer.
    """
    names = sorted(path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file())
    folders = [tuple(rows) for _, rows in groupby((n for n in names if "/" in n), key=lambda name: name.split("/")[0])]
    beside = tuple(name for name in names if "/" not in name)
    return [Layer(root=artifact, names=rows) for rows in (*folders, beside)]


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE
