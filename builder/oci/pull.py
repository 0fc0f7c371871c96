"""An artifact from a registry into the store: verified before it is there, or not there at all."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

from builder import manifest
from builder.attest.signing import SIGNATURE, is_signed
from builder.oci import image
from builder.oci.reference import Reference
from builder.oci.registry import Registry
from builder.oci.unpack import unpack
from builder.store import Store
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError, IntegrityError
from trtllm_kit.files import disk_errors, new_folder


def pull(place: Reference, into: Store, *, insecure: bool, talk: Talk) -> Path:
    """The artifact's folder in the store. Of one that is there already only a signature is fetched.

    Raises IntegrityError for bytes that are not what the manifest says, SpecError for a place that holds none of our
    artifacts, HostError for a registry that is out of reach or a disk without room.
    """
    into.sweep()
    registry = Registry(place, insecure=insecure)
    found = image.parse(registry.get_manifest(), str(place))
    folder = into.artifact_folder(found.artifact)
    if (folder / manifest.MANIFEST).is_file():
        _fetch_signature(registry, found, folder)
        return folder
    needed, free = sum(layer.size_bytes for layer in found.layers), _free_bytes(into.root)
    if needed > free:
        raise HostError(
            f"the artifact needs {needed / 1e9:.1f} GB and {into.root} has {free / 1e9:.1f} GB left",
            expected="free space on that disk",
            fix="`trtllm-kit artifact gc`, or choose another store with --store",
        )
    with new_folder(folder) as temporary:
        done = 0
        for layer in found.layers:
            with registry.open_blob(layer.digest) as stream:
                unpack(stream, layer, temporary, seen=partial(_tell, talk, done, needed))
            done += layer.size_bytes
        _check(manifest.verify(temporary)["digest"], found.artifact)
    return folder


def _fetch_signature(registry: Registry, found: image.Image, folder: Path) -> None:
    """A signature that was made elsewhere, for the same artifact: it lies in the last layer."""
    layer = found.layers[-1]
    with tempfile.TemporaryDirectory() as name, disk_errors(Path(name)):
        last = Path(name)
        with registry.open_blob(layer.digest) as stream:
            unpack(stream, layer, last)
        _check(manifest.load(last)["digest"], found.artifact)
        if is_signed(last):
            (folder / SIGNATURE).unlink(missing_ok=True)  # until the new one is there too
            for part in manifest.ATTESTATIONS:
                manifest.attach(folder, part, (last / part).read_text(encoding="utf-8"))


def _check(digest: str, promised: str) -> None:
    if digest != promised:
        raise IntegrityError(
            f"the image promises the artifact {promised[:12]} and holds {digest[:12]}",
            expected="the artifact that its annotation names",
            fix="push it again",
        )


def _tell(talk: Talk, before_bytes: int, total_bytes: int, seen_bytes: int) -> None:
    talk.progress(before_bytes + seen_bytes, total_bytes, "fetching layers")


def _free_bytes(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free
