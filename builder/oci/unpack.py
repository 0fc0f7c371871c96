"""A layer's files from a stream that nobody vouches for yet: plain files below one folder, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from builder.oci.image import Blob
from trtllm_kit.errors import IntegrityError

_CHUNK_BYTES = 1 << 20
_NAMES = {
    errno.EEXIST: "is there twice",
    errno.ENOTDIR: "is there twice, as a file and as a folder",
    errno.EISDIR: "is there twice, as a file and as a folder",
    errno.ENAMETOOLONG: "has too long a name",
}
"""What is wrong with a layer, and not with the disk, by the operating system's error."""


class _Counted:
    """A stream that hashes what is read from it, and refuses to go on beyond the promised size."""

    def __init__(self, stream: BinaryIO, blob: Blob, seen: Callable[[int], None]) -> None:
        self._stream, self._blob, self._seen = stream, blob, seen
        self._left, self._hash = blob.size_bytes, hashlib.sha256()

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(min(size, self._left))
        self._left -= len(chunk)
        self._hash.update(chunk)
        self._seen(self._blob.size_bytes - self._left)
        return chunk

    def finish(self) -> None:
        """Read on to the end; IntegrityError unless it was what the digest says."""
        while self.read(_CHUNK_BYTES):
            pass
        if self._left or f"sha256:{self._hash.hexdigest()}" != self._blob.digest:
            raise _broken(self._blob, "its bytes are not what its digest says")


def unpack(stream: BinaryIO, blob: Blob, into: Path, *, seen: Callable[[int], None] = lambda _: None) -> None:
    """Write a layer's files below `into`; IntegrityError for links, foreign paths, doubles and other bytes.

    What was written before an error is the caller's to remove. `seen` is told how many bytes have come in.
    """
    source = _Counted(stream, blob, seen)
    try:
        # A stream that is only read needs no more than `read`, whatever the type stubs say.
        with tarfile.open(fileobj=source, mode="r|", bufsize=_CHUNK_BYTES) as tar:  # type: ignore[call-overload]
            for member in tar:
                if not member.isdir():
                    _write(tar, member, into, blob)
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:  # the last for headers of headers of ...
        raise _broken(blob, f"it is no tar: {error}") from None
    source.finish()


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path, blob: Blob) -> None:
    path = PurePosixPath(member.name)
    if not member.isreg() or member.issparse():
        raise _broken(blob, f"{member.name} is a link or a special file")
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in member.name:
        raise _broken(blob, f"{member.name} leads out of the artifact")
    target = into / path
    content = tar.extractfile(member)
    assert content is not None  # of a regular file it never is
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")
    except OSError as error:
        if error.errno not in _NAMES:
            raise
        raise _broken(blob, f"{member.name[:80]} {_NAMES[error.errno]}") from None
    with file:
        shutil.copyfileobj(content, file, _CHUNK_BYTES)


def _broken(blob: Blob, reason: str) -> IntegrityError:
    return IntegrityError(
        f"the layer {blob.digest[:19]} cannot be used: {reason}",
        expected="plain files, as `trtllm-kit artifact push` packs them",
        fix="pull again; if it stays so, push the artifact anew and find out who changed the registry",
    )
