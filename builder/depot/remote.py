"""A store behind fsspec: S3 and its like, other clouds' object stores, and memory for trying things out."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from builder.depot.failures import labels_of, store_errors
from trtllm_kit.files import disk_errors

_CHUNK_BYTES = 16 << 20

Create = Callable[[Any, str, bytes], None]
"""Writes an object of a file system of fsspec, or raises FileExistsError when there is one; atomically."""


class RemoteObjects:
    """`builder.depot.objects.Objects` over a file system of fsspec."""

    def __init__(self, filesystem: Any, root: str, url: str, create: Create) -> None:
        self._fs, self._root, self._url, self._create = filesystem, root.rstrip("/"), url, create

    @property
    def url(self) -> str:
        return self._url

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        if not paths:
            return {}
        with store_errors(self._url):
            found = self._fs.cat([self._full(path) for path in paths], on_error="return")
            for value in found.values():
                if isinstance(value, Exception) and not _absent(value):
                    raise value
        return {self._relative(name): value for name, value in found.items() if isinstance(value, bytes)}

    def below(self, folder: str) -> list[str]:
        return self._listed(lambda: self._fs.find(self._full(folder)))

    def names(self, folder: str) -> list[str]:
        paths = self._listed(lambda: self._fs.ls(self._full(folder), detail=False))
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in paths if path != folder]

    def put(self, path: str, data: bytes) -> None:
        with store_errors(self._url):
            self._fs.pipe_file(self._full(path), data)

    def create(self, path: str, data: bytes) -> bool:
        with store_errors(self._url):
            try:
                self._create(self._fs, self._full(path), data)
            except FileExistsError:
                return False
        return True

    def upload(self, path: str, source: Path) -> str:
        with source.open("rb") as file, store_errors(self._url), self._fs.open(self._full(path), "wb") as target:
            return _copy(file, target)

    def download(self, path: str, target: Path) -> str:
        with store_errors(self._url), self._fs.open(self._full(path), "rb") as source, disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                return _copy(source, file)

    def delete(self, paths: Sequence[str]) -> None:
        with store_errors(self._url):
            for path in paths:
                try:
                    self._fs.rm_file(self._full(path))
                except FileNotFoundError as error:
                    if not _absent(error):
                        raise

    def _listed(self, listing: Callable[[], Iterable[str]]) -> list[str]:
        with store_errors(self._url):
            try:
                return sorted(self._relative(name) for name in listing())
            except FileNotFoundError as error:
                if not _absent(error):
                    raise
                return []

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _relative(self, name: str) -> str:
        return name[len(self._root) + 1 :]


def create_by_mode(filesystem: Any, path: str, data: bytes) -> None:
    """Let the server decide: S3's `If-None-Match: *`, and what other clouds call it."""
    filesystem.pipe_file(path, data, mode="create")


_MEMORY = threading.Lock()


def create_in_memory(filesystem: Any, path: str, data: bytes) -> None:
    """fsspec's memory is one process's, where a lock decides."""
    with _MEMORY:
        if filesystem.exists(path):
            raise FileExistsError(path)
        filesystem.pipe_file(path, data)


def _absent(error: Exception) -> bool:
    """Whether it is the object that is missing, and not the bucket."""
    return isinstance(error, FileNotFoundError) and "NoSuchBucket" not in labels_of(error)


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
