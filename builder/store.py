"""The store: stage outputs and artifacts in folders that are complete or absent, and refs that move atomically."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtllm_kit.errors import SpecError
from trtllm_kit.files import disk_errors, is_leftover, pretty_json, write_text_atomic


def default_root() -> Path:
    """`$TRTLLM_KIT_STORE`, else `trtllm-kit` in the user's cache folder."""
    chosen = os.environ.get("TRTLLM_KIT_STORE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "trtllm-kit"


@dataclass(frozen=True)
class Store:
    """One folder: `stages/<stage>/<key>`, `work/<stage>-<key>`, `artifacts/<digest>`, `refs/<identifier>` and
    `deployments/<name>`."""

    root: Path

    def stage_folder(self, stage: str, key: str) -> Path:
        return self.root / "stages" / stage / key

    def artifact_folder(self, digest: str) -> Path:
        return self.root / "artifacts" / digest

    def work_folder(self, stage: str, key: str) -> Path:
        """Where an unfinished stage keeps what lets it go on after it was killed."""
        return self.root / "work" / f"{stage}-{key}"

    @property
    def deployments(self) -> Path:
        return self.root / "deployments"

    @property
    def digests_file(self) -> Path:
        return self.root / "digests.json"

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold `name` alone among all processes of this machine; the kernel lets go when a holder dies."""
        path = self.root / "locks" / name
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def is_locked(self, name: str) -> bool:
        """Whether a process holds `name` at this moment."""
        path = self.root / "locks" / name
        if not path.is_file():
            return False
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def set_ref(self, name: str, record: dict[str, Any]) -> None:
        """Point `refs/<name>` at a record, atomically; a ref that says the same already is left untouched."""
        if self.get_ref(name) != record:
            write_text_atomic(self.root / "refs" / f"{name}.json", pretty_json(record))

    def get_ref(self, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads((self.root / "refs" / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def refs(self) -> dict[str, dict[str, Any]]:
        """All refs by name."""
        names = sorted(path.stem for path in (self.root / "refs").glob("*.json"))
        return {name: record for name in names if (record := self.get_ref(name)) is not None}

    def artifacts(self) -> list[str]:
        """Digests of all complete artifacts."""
        folder = self.root / "artifacts"
        return sorted(path.name for path in folder.iterdir() if _complete(path)) if folder.is_dir() else []

    def find_artifact(self, text: str | None) -> Path:
        """The artifact that a person means: a folder, an identifier, a digest or its first 6+ digits; None: the newest.

        Raises SpecError that lists what there is.
        """
        if text is None:
            return self._newest()
        if (Path(text) / "manifest.json").is_file():
            return Path(text).absolute()
        record = self.get_ref(text) if "/" not in text else None
        wanted = str(record["artifact"]) if record else text
        found = [digest for digest in self.artifacts() if digest.startswith(wanted)] if len(wanted) >= 6 else []
        if len(found) == 1:
            return self.artifact_folder(found[0])
        raise SpecError(
            f"'{text}' names {'more than one artifact' if found else 'no artifact'} in {self.root}",
            expected="an identifier ("
            + (", ".join(self.refs()) or "none built yet")
            + "), a digest or an artifact's folder",
            fix="see `trtllm-kit artifact list`, or build one with `trtllm-kit build model`",
        )

    def _newest(self) -> Path:
        found = [self.artifact_folder(str(record["artifact"])) for record in self.refs().values()]
        found = [folder for folder in found if folder.is_dir()]
        if not found:
            raise SpecError(
                f"no artifact in {self.root}",
                expected="a finished build",
                fix="build one with `trtllm-kit build model`",
            )
        return max(found, key=lambda folder: (folder / "manifest.json").stat().st_mtime_ns)

    def sweep(self) -> None:
        """Remove what killed processes left under temporary names."""
        for folder in (self.root / "artifacts", *sorted((self.root / "stages").glob("*"))):
            for path in folder.glob(".*.tmp") if folder.is_dir() else ():
                if is_leftover(path, socket.gethostname()):
                    shutil.rmtree(path, ignore_errors=True)


def _complete(path: Path) -> bool:
    return not path.name.startswith(".") and (path / "manifest.json").is_file()
