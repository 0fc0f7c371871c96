"""Artifacts in the depot: `artifacts/<digest>/<upload>/`, the bytes of one artifact as one process brought them.

An upload is complete once its `manifest.json` is there, which is written last. Its id starts with the time of its
making. No upload is ever written to again, and one that no ref of its cell holds is never used again (`Depot.publish`).
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from builder import manifest
from builder.depot.objects import Objects
from trtllm_kit.console import Talk
from trtllm_kit.errors import IntegrityError
from trtllm_kit.files import pretty_json
from trtllm_kit.stamps import stamp, stamped_unix_s

ARTIFACTS = "artifacts"
PINS = "pins"


@dataclass(frozen=True, order=True)
class Upload:
    """Which upload of which artifact."""

    digest: str
    id: str

    @classmethod
    def new(cls, digest: str) -> Upload:
        return cls(digest, f"{stamp()}-{secrets.token_hex(4)}")

    @property
    def folder(self) -> str:
        return f"{ARTIFACTS}/{self.digest}/{self.id}"

    @property
    def manifest(self) -> str:
        return f"{self.folder}/{manifest.MANIFEST}"

    @property
    def pin(self) -> str:
        """While this object exists, a process is at work on the upload and will move a ref to it."""
        return f"{PINS}/{self.digest}/{self.id}.json"

    @property
    def made_unix_s(self) -> float:
        """By the clock of the host that made it."""
        return stamped_unix_s(self.id) or 0.0


def parse(path: str) -> tuple[Upload, str] | None:
    """The upload that an object under `artifacts/` belongs to, and its name in it; None: it belongs to none."""
    parts = path.split("/", 3)
    return (Upload(parts[1], parts[2]), parts[3]) if len(parts) == 4 else None


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Who is at work on an upload, for a person who wonders."""

    host: str
    pid: int
    at_unix_s: float

    @classmethod
    def mine(cls) -> Pin:
        return cls(host=socket.gethostname(), pid=os.getpid(), at_unix_s=time.time())

    def to_bytes(self) -> bytes:
        return pretty_json(asdict(self)).encode()


def pinned_at(data: bytes) -> float:
    """When a pin was made; one that cannot be read counts as made long ago."""
    try:
        return float(json.loads(data)["at_unix_s"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def bring(objects: Objects, upload: Upload, folder: Path, talk: Talk) -> None:
    """Upload an artifact folder, its manifest last. IntegrityError when a file is not what the manifest says."""
    listed = manifest.load(folder)["files"]
    problems = [f"{name} is missing" for name in listed if not (folder / name).is_file()]
    for name in () if problems else _with_progress(listed, folder, talk, f"upload of {upload.digest[:12]}"):
        if objects.upload(f"{upload.folder}/{name}", folder / name) != listed[name]:
            problems.append(f"{name} has other bytes")
    if problems:
        raise manifest.damaged(folder, problems)
    for name, data in _attestations(folder).items():
        objects.put(f"{upload.folder}/{name}", data)
    objects.put(upload.manifest, (folder / manifest.MANIFEST).read_bytes())


def fetch(objects: Objects, upload: Upload, folder: Path, talk: Talk) -> None:
    """Download an upload into an empty folder and verify it. IntegrityError when it is not complete or not intact."""
    try:
        for name in _with_progress(
            _fetch_manifest(objects, upload, folder), None, talk, f"download of {upload.digest[:12]}"
        ):
            objects.download(f"{upload.folder}/{name}", folder / name)
        digest = manifest.verify(folder)["digest"]
    except FileNotFoundError as error:
        raise _damaged(objects, upload, f"{error.filename or error} is missing") from None
    except IntegrityError as error:
        raise _damaged(objects, upload, error.happened) from None
    if digest != upload.digest:
        raise _damaged(objects, upload, f"it is artifact {digest[:12]}")


def covers(objects: Objects, upload: Upload, folder: Path) -> bool:
    """Whether the upload has every file of an artifact folder, and every attestation as the folder has it."""
    there = set(objects.below(upload.folder))
    files = {f"{upload.folder}/{name}" for name in (manifest.MANIFEST, *manifest.load(folder)["files"])}
    attested = {f"{upload.folder}/{name}": data for name, data in _attestations(folder).items()}
    return files <= there and objects.read(list(attested)) == attested


def _fetch_manifest(objects: Objects, upload: Upload, folder: Path) -> list[str]:
    """Write the manifest and the attestations; returns the names of the other files."""
    found = objects.read([f"{upload.folder}/{name}" for name in (manifest.MANIFEST, *manifest.ATTESTATIONS)])
    for path, data in found.items():
        (folder / path.rpartition("/")[2]).write_bytes(data)
    try:
        names = list(json.loads(found[upload.manifest])["files"].keys())
    except KeyError:
        raise IntegrityError("it is not there, or is not complete") from None
    except (ValueError, TypeError, AttributeError):
        raise IntegrityError("its manifest cannot be read") from None
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise IntegrityError(f"its manifest names '{name}'")
    return names


def _attestations(folder: Path) -> dict[str, bytes]:
    """What vouches for an artifact, as far as it is there."""
    paths = {name: folder / name for name in manifest.ATTESTATIONS}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def _with_progress(names: Collection[str], folder: Path | None, talk: Talk, what: str) -> Iterator[str]:
    """Each name, with progress in bytes where they are known and in files where they are not."""
    sizes = {name: (folder / name).stat().st_size if folder else 1 for name in names}
    done, total = 0, sum(sizes.values())
    for name, size in sizes.items():
        yield name
        done += size
        talk.progress(done, total, what)


def _damaged(objects: Objects, upload: Upload, why: str) -> IntegrityError:
    return IntegrityError(
        f"{upload.folder} in depot {objects.url} cannot be used: {why}",
        expected="a complete upload whose every file is as its manifest lists it",
        fix="if `trtllm-kit artifact refs` still shows it, remove that folder from the depot and build the cell again",
    )
