"""Where an artifact comes from: an in-toto statement with SLSA's predicate, https://slsa.dev/spec/v1.0/provenance.

Said by the manifest alone: no time, no host, no path. Its first subject is the artifact itself, by the digest that is
its name; through it the signature binds `manifest.json`, which grows by validations after it was signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.attest.sources import image_parts, model_purl
from trtllm_kit.errors import IntegrityError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:trtllm-kit:build-model:v1"


def make(manifest: Mapping[str, Any], *, builder_id: str | None) -> dict[str, Any]:
    """The statement of an artifact by its manifest; `builder_id` is a URI that names who ran the build."""
    kit = manifest["versions"]["trtllm-kit"]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": manifest["identifier"], "digest": {"sha256": manifest["digest"]}},
            *({"name": name, "digest": {"sha256": digest}} for name, digest in sorted(manifest["files"].items())),
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"spec": manifest["spec"]},
                "internalParameters": {"stages": manifest["stages"], "versions": manifest["versions"]},
                "resolvedDependencies": [_model(manifest), *_image(manifest)],
            },
            "runDetails": {"builder": {"id": builder_id or f"pkg:pypi/trtllm-kit@{kit}"}},
        },
    }


def subject_digest(statement: Any, identifier: str) -> str:
    """The artifact's digest by the statement; IntegrityError when it is of no artifact of this name."""
    try:
        (found,) = (row["digest"]["sha256"] for row in statement["subject"] if row["name"] == identifier)
    except (KeyError, TypeError, ValueError):
        raise IntegrityError(
            f"provenance.json does not speak of {identifier}",
            expected="a statement that `trtllm-kit artifact sign` wrote for this artifact",
            fix="sign it again",
        ) from None
    return str(found)


def _model(manifest: Mapping[str, Any]) -> dict[str, Any]:
    model, purl = manifest["model"], model_purl(manifest)
    commit = {"gitCommit": model["revision"]} if "revision" in model else {}
    row = {"name": manifest["spec"]["model"], "digest": {"sha256": model["digest"], **commit}}
    return {**row, "uri": purl} if purl else row


def _image(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    name = manifest["versions"].get("triton_image")
    if not name:
        return []
    image = image_parts(name)
    pinned = str(manifest["versions"].get("image_digest", "")).removeprefix("sha256:")
    digest = image.digest or pinned
    return [{"name": name, "uri": image.purl, **({"digest": {"sha256": digest}} if digest else {})}]
