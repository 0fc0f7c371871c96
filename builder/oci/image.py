"""The image around an artifact's layers: https://github.com/opencontainers/image-spec, v1.

An ordinary image, so that a pod can mount it by digest as an image volume; the same artifact gives the same digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.oci.layers import Layer
from trtllm_kit.errors import IntegrityError, SpecError
from trtllm_kit.files import canonical_json

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
ARTIFACT_KEY = "trtllm-kit.artifact"
"""Annotation: the artifact's digest."""

_DIGEST = r"sha256:[0-9a-f]{64}"
_ARM_SKUS = ("gh200", "gb200", "gb300")


@dataclass(frozen=True, kw_only=True)
class Blob:
    """What an image points at."""

    digest: str  # "sha256:..."
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that holds an artifact."""

    artifact: str  # the artifact's digest
    layers: tuple[Blob, ...]


def config_of(manifest: Mapping[str, Any], layers: Sequence[Layer]) -> bytes:
    """The image's config; nodes take only images of their own processor, so it names that of the SKU."""
    arm = str(manifest["target"]["sku"]).startswith(_ARM_SKUS)
    return canonical_json(
        {
            "architecture": "arm64" if arm else "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )


def manifest_of(manifest: Mapping[str, Any], config: bytes, layers: Sequence[Layer]) -> bytes:
    """The image's manifest."""
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size_bytes} for layer in layers],
            "annotations": {
                ARTIFACT_KEY: manifest["digest"],
                "org.opencontainers.image.title": manifest["identifier"],
            },
        }
    )


def parse(content: bytes, where: str) -> Image:
    """Inverse of `manifest_of`; SpecError when it is a manifest of something else."""
    try:
        tree = json.loads(content)
        digest = tree["annotations"][ARTIFACT_KEY]
        rows = [(row["mediaType"], row["digest"], row["size"]) for row in tree["layers"]]
    except (ValueError, KeyError, TypeError):
        raise _no_artifact(where) from None
    sound = all(re.fullmatch(_DIGEST, str(blob)) and type(size) is int and size > 0 for _, blob, size in rows)
    if not (sound and rows and re.fullmatch(r"[0-9a-f]{64}", str(digest))):
        raise _no_artifact(where)
    if any(kind != LAYER_TYPE for kind, _, _ in rows):
        raise IntegrityError(
            f"{where} was packed anew: its layers are not the plain tars that were pushed",
            expected=f"layers of type {LAYER_TYPE}",
            fix="push it again, or copy it with a tool that keeps digests",
        )
    return Image(artifact=digest, layers=tuple(Blob(digest=blob, size_bytes=size) for _, blob, size in rows))


def digest_of(content: bytes) -> str:
    """ "sha256:..." of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _no_artifact(where: str) -> SpecError:
    return SpecError(f"{where} is no artifact of trtllm-kit", expected="an image that `trtllm-kit artifact push` wrote")
