"""Files that are either complete or absent: digests, canonical JSON, and folders renamed into place when done."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trtllm_kit.errors import HostError, SpecError

_CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8. Refuses NaN, which has no JSON form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def pretty_json(value: Any) -> str:
    """JSON for people and for byte-stable files: sorted keys, two spaces, final newline."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, what: str) -> Any:
    """Parsed JSON of `path`; SpecError that names `what` when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"{what} is missing: {path}", expected="a JSON file", fix="fetch or build it again") from None
    except (ValueError, RecursionError) as error:  # also numbers too long to convert and brackets too deep
        raise SpecError(f"{what} is not JSON: {path}: {error}", expected="a JSON file", fix="fetch it again") from None


def write_text_atomic(
    path: Path, text: str, *, scratch: Path | None = None, times_ns: tuple[int, int] | None = None
) -> None:
    """Write `text` so that `path` holds either the old or the new content, never a part.

    Args:
        scratch: a folder of the same file system for what a killed writer leaves; None: that of `path`.
        times_ns: access and modification time that the file is to have; None: now.
    """
    temporary = (scratch or path.parent) / f".{path.name}.{uuid.uuid4().hex}.tmp"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if times_ns is not None:
                os.utime(temporary, ns=times_ns)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`; rename it to `final` when the block ends well, else remove it.

    Two writers of the same `final` may race: the first rename wins and the loser's folder is dropped, which is right
    because callers only publish under names that are determined by the content or by all of its inputs.
    """
    with disk_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}~{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir()
    try:
        with disk_errors(final):
            yield temporary
            sync_tree(temporary)
            rename_unless_there(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def rename_unless_there(temporary: Path, final: Path) -> None:
    """Rename a folder into place; when another writer was faster, its folder stays and ours is left where it is."""
    try:
        temporary.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def is_leftover(temporary: Path, host: str) -> bool:
    """Whether a temporary folder of `new_folder` belongs to a process of this host that is no longer alive."""
    parts = temporary.name.removesuffix(".tmp").rsplit("~", 3)
    if len(parts) != 4 or parts[1] != host or not parts[2].isdigit():
        return False
    try:
        os.kill(int(parts[2]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def link_or_copy(source: Path, target: Path) -> None:
    """Give `target` the content of `source` at no cost of disk where the file system can; both are immutable."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sync_tree(folder: Path) -> None:
    """Flush every file, so that a rename seen after a power cut never shows a folder of empty files."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals around a write to `target` into errors that say what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        raise HostError(f"cannot write {target}: {error.strerror}", expected=advice[0], fix=advice[1]) from error


_ADVICE = {
    errno.ENOSPC: (
        "free space on that disk",
        "free some space, or choose another store with --store or TRTLLM_KIT_STORE",
    ),
    errno.EDQUOT: (
        "room within the quota",
        "free some space, or choose another store with --store or TRTLLM_KIT_STORE",
    ),
    errno.EFBIG: ("room for a file of that size", "choose another store with --store or TRTLLM_KIT_STORE"),
    errno.EACCES: ("a folder that this user may write", "choose another store with --store or TRTLLM_KIT_STORE"),
    errno.EPERM: ("a folder that this user may write", "choose another store with --store or TRTLLM_KIT_STORE"),
    errno.EROFS: ("a file system that is not read-only", "choose another store with --store or TRTLLM_KIT_STORE"),
    errno.EEXIST: (
        "a folder, not a file, in every part of that path",
        "choose another store with --store or TRTLLM_KIT_STORE",
    ),
    errno.ENOTDIR: (
        "a folder, not a file, in every part of that path",
        "choose another store with --store or TRTLLM_KIT_STORE",
    ),
}
