"""A store in a folder, also one that several hosts mount: no lock is taken, hard links decide who was first.

Each write goes to `.tmp/` of the same file system, is flushed, and then linked or renamed to its name; so neither a
kill nor a power cut leaves a part of an object. Links work over NFS, where locks often do not.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from builder.depot.failures import store_errors
from trtllm_kit.errors import HostError
from trtllm_kit.files import disk_errors, link_or_copy, sha256_file

_TEMPORARY = ".tmp"
_ABANDONED_S = 2 * 86400.0
_TRIES = 20


class FolderObjects:
    """`builder.depot.objects.Objects` in a folder, which need not exist before the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self._swept = False
        with store_errors(self.url):
            if self._root.exists() and not self._root.is_dir():
                raise HostError(f"depot {self.url} is a file", expected="a folder", fix="choose another folder")

    @property
    def url(self) -> str:
        return str(self._root)

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        found = {}
        with store_errors(self.url):
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    found[path] = (self._root / path).read_bytes()
        return found

    def below(self, folder: str) -> list[str]:
        with store_errors(self.url):
            return sorted(_walk(self._root / folder, folder))

    def names(self, folder: str) -> list[str]:
        with store_errors(self.url), contextlib.suppress(FileNotFoundError):
            return sorted(path.name for path in (self._root / folder).iterdir() if not path.name.startswith("."))
        return []

    def put(self, path: str, data: bytes) -> None:
        with store_errors(self.url), self._temporary() as temporary:
            _write(temporary, data)
            self._place(temporary, path, os.replace)

    def create(self, path: str, data: bytes) -> bool:
        with store_errors(self.url), self._temporary() as temporary:
            _write(temporary, data)
            try:
                self._place(temporary, path, os.link)
            except FileExistsError:
                return False
        return True

    def upload(self, path: str, source: Path) -> str:
        with store_errors(self.url), self._temporary() as temporary:
            link_or_copy(source, temporary)
            digest = sha256_file(temporary)
            _sync(temporary)
            self._place(temporary, path, os.replace)
        return digest

    def download(self, path: str, target: Path) -> str:
        with store_errors(self.url), disk_errors(target):
            link_or_copy(self._root / path, target)
            return sha256_file(target)

    def delete(self, paths: Sequence[str]) -> None:
        with store_errors(self.url):
            for path in paths:
                file = self._root / path
                file.unlink(missing_ok=True)
                for folder in file.parents:
                    if folder == self._root or not _removed_empty(folder):
                        break

    def _place(self, temporary: Path, path: str, how: Callable[[Path, Path], None]) -> None:
        final = self._root / path
        for attempt in range(_TRIES):
            _make_folder(final.parent)
            try:
                how(temporary, final)
                break
            except FileNotFoundError:  # another process has just removed that folder, empty as it was
                if attempt == _TRIES - 1:
                    raise
        _sync(final.parent)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self._root / _TEMPORARY
        _make_folder(folder)
        if not self._swept:
            self._swept = True
            _sweep(folder)
        temporary = folder / uuid.uuid4().hex
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _walk(folder: Path, name: str) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{name}/{entry.name}")
            else:
                yield f"{name}/{entry.name}"


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """A folder whose name, and those of all above it, are on disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _removed_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove what killed writers left. By ctime, which linking renews: a linked file's mtime is its build's."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_ctime > _ABANDONED_S:
                path.unlink()
