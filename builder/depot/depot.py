"""The depot as its users see it: refs of cells, artifacts by digest, holds of deployments, and the texts of nights."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from builder import manifest
from builder.depot import collect, find, ref_log, uploads
from builder.depot.objects import Objects, open_objects
from builder.depot.records import CellName, CellRecord, Entry
from builder.depot.ref_log import LostRace, Version
from builder.depot.uploads import Pin, Upload
from builder.store import Store
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError, IntegrityError, SpecError
from trtllm_kit.files import new_folder, pretty_json
from trtllm_kit.identifier import BuildIdentifier

_MARK = "depot.json"
_FORMAT = 1
_PIN_TRUSTED_S = (collect.PIN_DAYS - 1) * 86400


class Depot:
    """What all machines that build share. Why no build in service is ever lost: `builder.depot.collect`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._pinned: dict[Upload, float] = {}  # uploads of the open publish blocks, and when they were pinned
        self._exclusive = False
        self._check_format()

    @classmethod
    def open(cls, url: str) -> Depot:
        """A folder, `file://`, `s3://`, `memory://`, ... URL. SpecError: unknown protocol or missing extra; HostError:
        unreachable, or the credentials are refused."""
        return cls(open_objects(url))

    @property
    def url(self) -> str:
        """Where it is, without secrets; a folder's path is absolute."""
        return self._objects.url

    def read(self, cell: CellName) -> Version:
        """The newest version of a cell's record."""
        return ref_log.read(self._objects, cell)

    def read_all(self) -> dict[CellName, Version]:
        """The newest version of every cell that was ever built: one listing, then all reads at once."""
        return ref_log.read_all(self._objects)

    def move(self, cell: CellName, expected: Version, record: CellRecord) -> Version:
        """Replace `expected`, if it is still the newest, by `record`; else LostRace. An entry of `record` has to be one
        of `expected` or an upload of an open `publish` of this object."""
        kept = {Upload(entry.digest, entry.upload) for entry in expected.record.entries().values()}
        for entry in record.entries().values():
            upload = Upload(entry.digest, entry.upload)
            if upload not in kept and time.time() - self._pinned.get(upload, 0.0) > _PIN_TRUSTED_S:
                raise LostRace(cell, f"{upload.folder} is kept neither by its record nor by an upload at work")
        self._check_exclusive()
        return ref_log.append(self._objects, cell, expected, record)

    def history(self, cell: CellName) -> list[Version]:
        """Every version of a cell's record that is kept, oldest first."""
        return ref_log.history(self._objects, cell)

    def find(self, text: str) -> CellName:
        """The cell that a person means: identifier, full name or a unique beginning of either, with an optional
        `/current`, `/candidate` or `/previous` behind it. SpecError lists what there is."""
        return find.cell(text, self.read_all())

    def find_entry(self, text: str) -> Entry:
        """The build that a person means: as `find`, `/current` if no ref is named."""
        return find.entry(text, self.read_all())

    @contextlib.contextmanager
    def publish(self, folder: Path, *, talk: Talk) -> Iterator[str]:
        """Upload an artifact folder, unless its cell's record holds it already; yields the upload id.

        Move the cell inside the block: only there the upload is safe from `collect` without a ref. IntegrityError when
        a file is not what the manifest says.
        """
        content = manifest.load(folder)
        digest = str(content["digest"])
        cell = CellName.of(BuildIdentifier.parse(content["identifier"]))
        for entry in self.read(cell).record.entries().values():
            if entry.digest == digest and uploads.covers(self._objects, Upload(digest, entry.upload), folder):
                yield entry.upload
                return
        upload = Upload.new(digest)
        self._pinned[upload] = time.time()
        self._objects.put(upload.pin, Pin.mine().to_bytes())
        try:
            uploads.bring(self._objects, upload, folder, talk)
            yield upload.id
        finally:
            del self._pinned[upload]
            self._objects.delete([upload.pin])

    def pull(self, digest: str, upload: str, into: Store, *, talk: Talk) -> Path:
        """The artifact in the local store, verified; nothing is copied when it is there already.

        IntegrityError when the depot's upload is incomplete, damaged or gone.
        """
        final = into.artifact_folder(digest)
        if not (final / manifest.MANIFEST).is_file():
            with new_folder(final) as folder:
                uploads.fetch(self._objects, Upload(digest, upload), folder, talk)
        return final

    def hold(self, digest: str, name: str, words: str) -> None:
        """Keep an artifact that a ref holds now for as long as deployment `name` needs it; SpecError when none does."""
        path = _hold(digest, name)
        already = bool(self._objects.read([path]))
        self._objects.put(path, pretty_json({"name": name, "words": words, "at_unix_s": time.time()}).encode())
        if not already and not any(
            entry.digest == digest
            for version in self.read_all().values()
            for entry in version.record.entries().values()
        ):
            self.release(digest, name)
            raise SpecError(
                f"no ref in depot {self.url} holds artifact {digest[:12]}",
                expected="an artifact that is candidate, current or previous of its cell",
                fix="see `trtllm-kit artifact refs`",
            )

    def release(self, digest: str, name: str) -> None:
        """Undo `hold`; nothing happens when there is none."""
        self._objects.delete([_hold(digest, name)])

    def collect(self, keep_days: float, dry_run: bool) -> list[str]:
        """Remove (or only name) uploads that no ref, no hold, no publish at work and no age protects."""
        return collect.collect(self._objects, keep_days=keep_days, dry_run=dry_run)

    def write_text(self, path: str, text: str) -> None:
        """Write or replace `path`, such as `nights/<night>/night.json`; readers see the old or the new text."""
        self._objects.put(path, text.encode())

    def read_text(self, path: str) -> str | None:
        """None: there is no such path."""
        return self.read_texts([path]).get(path)

    def read_texts(self, paths: Iterable[str]) -> dict[str, str]:
        """Many at once; those that do not exist are left out."""
        return {path: data.decode(errors="replace") for path, data in self._objects.read(list(paths)).items()}

    def names(self, prefix: str) -> list[str]:
        """What lies one level below folder `prefix`, sorted, as paths from the depot's root: `names("nights")` is
        `["nights/20261121T020000Z-3f9a", ...]`, `names("nights/<night>/cells")` its cells' files."""
        return [f"{prefix}/{name}" for name in self._objects.names(prefix)]

    def _check_format(self) -> None:
        text = self.read_text(_MARK)
        if text is None:
            return
        try:
            found = json.loads(text)["format"]
        except (ValueError, KeyError, TypeError):
            found = "unknown"
        if found != _FORMAT:
            raise IntegrityError(
                f"depot {self.url} is of format {found}", expected=f"format {_FORMAT}", fix="update trtllm-kit"
            )

    def _check_exclusive(self) -> None:
        """Once, before anything depends on it, see that the store really creates exclusively."""
        mark = pretty_json({"format": _FORMAT}).encode()
        if not self._exclusive and self._objects.create(_MARK, mark) and self._objects.create(_MARK, mark):
            raise HostError(
                f"the store of depot {self.url} lets two processes create the same object",
                expected="conditional writes (If-None-Match), as S3 has them",
                fix="update the store's server or put the depot elsewhere: two nights could promote over each other",
            )
        self._exclusive = True


def default_url(store: Store) -> str:
    """`$TRTLLM_KIT_DEPOT`, else a folder in the local store."""
    return os.environ.get("TRTLLM_KIT_DEPOT") or str(store.root / "depot")


def _hold(digest: str, name: str) -> str:
    return f"{collect.HOLDS}/{digest}/{name}.json"
