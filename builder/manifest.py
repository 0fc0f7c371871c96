"""`manifest.json`: what an artifact is, for whom it was built, and the sha256 of every file in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.plan import BuildPlan
from trtllm_kit import __version__
from trtllm_kit.errors import IntegrityError
from trtllm_kit.files import fingerprint, read_json, sha256_file

MANIFEST = "manifest.json"
_FORMAT = 1


def make(
    plan: BuildPlan, stages: Mapping[str, str], versions: Mapping[str, str], files: Mapping[str, str]
) -> dict[str, Any]:
    """The manifest of a plan's artifact. Holds no time, host or path: the same inputs give the same bytes."""
    body: dict[str, Any] = {
        "format": _FORMAT,
        "identifier": str(plan.identifier),
        "runtime": plan.runtime,
        "precision": plan.precision,
        "model": {
            "architecture": plan.checkpoint.config.architecture,
            "dtype": plan.checkpoint.config.dtype,
            "digest": plan.checkpoint.digest,
        },
        "target": {
            "sku": plan.sku.id,
            "sm": plan.sku.sm,
            "tp_size": plan.tp_size,
            "pp_size": plan.pp_size,
            "world_size": plan.world_size,
        },
        "versions": {"trtllm-kit": __version__, **versions},
        "spec": portable_spec(plan),
        "reasons": dict(plan.reasons),
        "warnings": list(plan.warnings),
        "stages": dict(stages),
        "files": dict(files),
    }
    return {**body, "digest": fingerprint(body)}


def portable_spec(plan: BuildPlan) -> dict[str, Any]:
    """The resolved spec with a model folder cut to its name: an artifact does not depend on where the model lay."""
    spec = plan.resolved_spec()
    if Path(plan.checkpoint.source).is_dir():
        spec["model"] = Path(plan.checkpoint.source).resolve().name
    return spec


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
    body = {key: value for key, value in manifest.items() if key != "digest"}
    problems = [] if fingerprint(body) == manifest.get("digest") else ["manifest.json does not match its own digest"]
    listed = manifest["files"]
    present = {
        path.relative_to(artifact).as_posix(): path
        for path in sorted(artifact.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    problems += [f"{name} is missing" for name in listed if name not in present]
    problems += [f"{name} is not in the manifest" for name in present if name not in listed]
    problems += [
        f"{name} has other bytes" for name in listed if name in present and sha256_file(present[name]) != listed[name]
    ]
    if problems:
        raise IntegrityError(
            f"{artifact} is damaged: " + "; ".join(problems[:5]),
            expected="every file as the manifest lists it",
            fix="do not serve it; build it again with `trtllm-kit build model --rebuild`",
        )
    return manifest
