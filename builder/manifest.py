"""`manifest.json`: what an artifact is, for whom it was built, and the sha256 of every file in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.plan import BuildPlan
from trtllm_kit import __version__
from trtllm_kit.errors import IntegrityError
from trtllm_kit.files import disk_errors, fingerprint, pretty_json, read_json, sha256_file, write_text_atomic

MANIFEST = "manifest.json"
ATTESTATIONS = ("sbom.cdx.json", "provenance.json", "model.sig")
"""Made after the build, so no part of what the manifest lists; the signature binds them to it (`builder.attest`)."""
_FORMAT = 1
_OUTSIDE = ("digest", "validations")
"""What the digest is not of: itself, and what was found out about the artifact after it was built."""


def make(
    plan: BuildPlan,
    stages: Mapping[str, str],
    versions: Mapping[str, str],
    files: Mapping[str, str],
    *,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a plan's artifact. Holds no time, host or path: the same inputs give the same bytes.

    `facts` are what only the stages could find out: how weights are held, what the gate measured.
    """
    body: dict[str, Any] = {
        "format": _FORMAT,
        "identifier": str(plan.identifier),
        "runtime": plan.runtime,
        "precision": plan.precision,
        "model": {
            "architecture": plan.checkpoint.config.architecture,
            "dtype": plan.checkpoint.config.dtype,
            "digest": plan.checkpoint.digest,
            **({"revision": plan.checkpoint.revision} if plan.checkpoint.revision else {}),
        },
        "target": {
            "sku": plan.sku.id,
            "sm": plan.sku.sm,
            "tp_size": plan.tp_size,
            "pp_size": plan.pp_size,
            "world_size": plan.world_size,
        },
        "versions": {"trtllm-kit": __version__, **versions},
        **facts,
        "spec": portable_spec(plan),
        "reasons": dict(plan.reasons),
        "warnings": list(plan.warnings),
        "stages": dict(stages),
        "files": dict(files),
    }
    return {**body, "digest": fingerprint(body)}


def portable_spec(plan: BuildPlan) -> dict[str, Any]:
    """The resolved spec with files and folders cut to their names: an artifact does not depend on where they lay."""
    spec = plan.resolved_spec()
    spec["model"] = _portable(spec["model"])
    spec["evaluation"]["data"] = [_portable(name) for name in spec["evaluation"]["data"]]
    if spec["calibration"]:
        spec["calibration"]["data"] = _portable(spec["calibration"]["data"])
    return spec


def _portable(name: str) -> str:
    return Path(name).resolve().name if Path(name).exists() else name


def load(artifact: Path) -> dict[str, Any]:
    """The manifest of an artifact folder; IntegrityError when it is not one."""
    manifest = read_json(artifact / MANIFEST, "the artifact's manifest")
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise IntegrityError(
            f"{artifact / MANIFEST} is not a manifest of format {_FORMAT}",
            expected="an artifact built by trtllm-kit",
            fix="build it again with `trtllm-kit build model --rebuild`",
        )
    return manifest


def verify(artifact: Path) -> dict[str, Any]:
    """Read every byte of an artifact and return its manifest; IntegrityError lists all that is wrong."""
    manifest = load(artifact)
    body = {key: value for key, value in manifest.items() if key not in _OUTSIDE}
    problems = [] if fingerprint(body) == manifest.get("digest") else ["manifest.json does not match its own digest"]
    listed = manifest["files"]
    present = {path.relative_to(artifact).as_posix(): path for path in sorted(artifact.rglob("*")) if path.is_file()}
    for name in (MANIFEST, *ATTESTATIONS):
        present.pop(name, None)
    problems += [f"{name} is missing" for name in listed if name not in present]
    problems += [f"{name} is not in the manifest" for name in present if name not in listed]
    problems += [
        f"{name} has other bytes" for name in listed if name in present and sha256_file(present[name]) != listed[name]
    ]
    if problems:
        raise damaged(artifact, problems)
    return manifest


def damaged(artifact: Path, problems: Sequence[str]) -> IntegrityError:
    """An artifact whose files are not what its manifest says."""
    return IntegrityError(
        f"{artifact} is damaged: " + "; ".join(problems[:5]),
        expected="every file as the manifest lists it",
        fix="do not serve it; build it again with `trtllm-kit build model --rebuild`",
    )


def append_validation(artifact: Path, entry: Mapping[str, Any]) -> None:
    """Add an entry to the manifest's `validations`; readers see the old or the new file, two writers wait in turn."""
    path = artifact / MANIFEST
    with disk_errors(path), _alone(artifact):
        content, times = load(artifact), path.stat()
        content["validations"] = [*content.get("validations", ()), dict(entry)]
        # The store takes the newest artifact by its manifest's time, which is that of its build.
        attach(artifact, MANIFEST, pretty_json(content), times_ns=(times.st_atime_ns, times.st_mtime_ns))


def attach(artifact: Path, name: str, text: str, *, times_ns: tuple[int, int] | None = None) -> None:
    """Put the manifest or an attestation into an artifact that others may be reading; they see the old or the new."""
    # Scratch beside the artifact, where a killed writer leaves nothing that `verify` would take for a foreign file.
    write_text_atomic(artifact / name, text, scratch=artifact.parent, times_ns=times_ns)


def passing_validation(manifest: Mapping[str, Any], sku: str) -> Mapping[str, Any] | None:
    """The last validation on a SKU, if it did not fail."""
    entries = [entry for entry in manifest.get("validations", ()) if entry.get("sku") == sku]
    return entries[-1] if entries and entries[-1].get("status") in ("pass", "warn") else None


@contextlib.contextmanager
def _alone(artifact: Path) -> Iterator[None]:
    """Hold the folder itself; a lock file in it would be no part of the artifact."""
    folder = os.open(artifact, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
