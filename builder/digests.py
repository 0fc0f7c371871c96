"""Digests of input files, remembered by (size, mtime, inode): planning costs what changed, not what is there."""

from __future__ import annotations

import json
from pathlib import Path

from trtllm_kit.files import canonical_json, sha256_file, write_text_atomic


class DigestCache:
    """sha256 of files, kept in one JSON file between runs.

    A remembered digest is used only while size, modification time (ns), inode and device are all the same. Two
    processes may write at once: each replaces the file whole, and a lost entry costs one more hash.
    """

    def __init__(self, path: Path, *, recheck: bool = False) -> None:
        """`recheck`: read every file again, whatever is remembered of it."""
        self._path = path
        self._known = self._load()
        self._changed = False
        self._distrusted = set(self._known) if recheck else set()

    def sha256(self, file: Path) -> str:
        """Hex sha256 of `file`; read only when its stat is not the remembered one."""
        real = file.resolve()
        stat = real.stat()
        stamp = f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}:{stat.st_dev}"
        known = self._known.get(str(real))
        if known is not None and known[0] == stamp and str(real) not in self._distrusted:
            return known[1]
        digest = sha256_file(real)
        self._distrusted.discard(str(real))
        if known == (stamp, digest):
            return digest
        self._known[str(real)] = (stamp, digest)
        self._changed = True
        return digest

    def save(self) -> None:
        """Write what was learnt; nothing is touched when nothing was."""
        if self._changed:
            write_text_atomic(self._path, canonical_json(self._known).decode())
            self._changed = False

    def _load(self) -> dict[str, tuple[str, str]]:
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(key): (str(stamp), str(digest)) for key, (stamp, digest) in entries.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # a cache: losing it costs time, never correctness
