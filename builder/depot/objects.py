"""What the depot asks of a store: whole objects under slash-separated paths, and one atomic "create if absent".

Object stores differ in everything but this: an object is seen whole or not at all, and of several processes that
create the same path exactly one is told that it did. All of the depot's guarantees are built on these two.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from builder.depot.failures import store_errors
from builder.depot.folder import FolderObjects
from builder.depot.remote import Create, RemoteObjects, create_by_mode, create_in_memory
from trtllm_kit.errors import SpecError


class Objects(Protocol):
    """A store. Every method raises HostError, naming the store, when it cannot be reached or refuses."""

    @property
    def url(self) -> str:
        """Where it is, without secrets."""

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Many objects at once; those that do not exist are left out."""

    def below(self, folder: str) -> list[str]:
        """All objects below a folder at any depth, sorted; none when there is no such folder."""

    def names(self, folder: str) -> list[str]:
        """Names one level below a folder, of objects and of folders, sorted."""

    def put(self, path: str, data: bytes) -> None:
        """Write or replace an object."""

    def create(self, path: str, data: bytes) -> bool:
        """Write an object unless there is one, atomically among all processes of all machines; False: there is one."""

    def upload(self, path: str, source: Path) -> str:
        """A file's bytes as an object; returns the hex sha256 of what the object holds."""

    def download(self, path: str, target: Path) -> str:
        """An object's bytes as a new file; returns their hex sha256. FileNotFoundError when there is no such object."""

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""


@dataclass(frozen=True, kw_only=True)
class _Remote:
    """How a protocol of fsspec is used."""

    module: str  # that has to be there
    install: str
    create: Create
    options: Mapping[str, Any] = field(default_factory=dict)


_NO_CACHE = {"skip_instance_cache": True, "use_listings_cache": False}
# Unanswered, the defaults wait for minutes before they say so.
_PATIENCE = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3, "mode": "standard"}}
_S3 = _Remote(
    module="s3fs",
    install="pip install 'trtllm-kit[s3]'",
    create=create_by_mode,
    options={**_NO_CACHE, "config_kwargs": _PATIENCE},
)
_GOOGLE = _Remote(module="gcsfs", install="pip install gcsfs", create=create_by_mode, options=_NO_CACHE)
_AZURE = _Remote(module="adlfs", install="pip install adlfs", create=create_by_mode, options=_NO_CACHE)
_REMOTES: Mapping[str, _Remote] = {
    "memory": _Remote(module="fsspec", install="pip install fsspec", create=create_in_memory),
    "s3": _S3,
    "s3a": _S3,
    "gs": _GOOGLE,
    "gcs": _GOOGLE,
    "az": _AZURE,
    "abfs": _AZURE,
}
"""Protocols that can create exclusively. All others of fsspec check and then write, and would lose promotions."""


def open_objects(url: str) -> Objects:
    """The store behind a folder's path or an fsspec URL.

    Raises SpecError for a protocol that cannot be used or whose package is missing, HostError when it is not there.
    """
    protocol, separator, rest = url.partition("://")
    if not (rest if separator else url):
        raise SpecError(f"'{url}' is no depot", expected="a folder, or protocol://bucket/folder", fix="name one")
    if not separator:
        return FolderObjects(Path(url))
    if protocol == "file":
        return FolderObjects(Path(rest))
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise SpecError(
            f"the URL of depot {protocol}://{parts.hostname or ''}{parts.path} holds credentials or options",
            expected="protocol://bucket/folder alone",
            fix="give credentials as the store's own tools take them, e.g. AWS_PROFILE, AWS_ENDPOINT_URL",
        )
    return _open_remote(protocol, url.rstrip("/"))


def _open_remote(protocol: str, url: str) -> Objects:
    row = _REMOTES.get(protocol)
    if row is None:
        near = difflib.get_close_matches(protocol, [*_REMOTES, "file"], n=1)
        raise SpecError(
            f"a depot cannot be in {protocol}://",
            expected="a folder, or a store that can create an object only if it is absent: " + ", ".join(_REMOTES),
            fix=f"write '{near[0]}://'" if near else "choose another store",
        )
    try:
        importlib.import_module(row.module)
    except ImportError:
        raise SpecError(f"a depot in {protocol}:// needs {row.module}", expected=row.module, fix=row.install) from None
    from fsspec.core import url_to_fs

    with store_errors(url):
        filesystem, root = url_to_fs(url, **row.options)
    return RemoteObjects(filesystem, root, url, row.create)
