"""The bill of materials: the model, every file, and the stack that the artifact is tied to, as CycloneDX 1.6.

Said by the manifest alone, so that the same artifact has the same bill: no time, no host, a serial number made of the
digest. Written as plain JSON because the field's Python library has no model cards, which 1.6 has.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from builder.attest.sources import image_parts, model_purl
from trtllm_kit import __version__

_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"

_STACK: Mapping[str, tuple[str, str, str | None]] = {  # name in the manifest: (name, type, package URL without version)
    "trtllm-kit": ("trtllm-kit", "application", "pkg:pypi/trtllm-kit"),
    "tensorrt_llm": ("tensorrt-llm", "framework", "pkg:pypi/tensorrt-llm"),
    "openvino_genai": ("openvino-genai", "framework", "pkg:pypi/openvino-genai"),
    "tensorrt": ("tensorrt", "framework", None),
    "cuda": ("cuda", "platform", None),
}
_SPDX = {
    name.lower(): name
    for name in ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC0-1.0")
}
"""Licences whose name on the hub is the SPDX id in small letters; any other goes by the name that the card gives."""


def make(manifest: Mapping[str, Any], *, licence: str | None) -> dict[str, Any]:
    """The bill of an artifact by its manifest; `licence` is the model's, an SPDX id or any other name."""
    files = [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_sha256(digest)]}
        for name, digest in sorted(manifest["files"].items())
    ]
    stack = [_component(name, str(version)) for name, version in sorted(manifest["versions"].items())]
    engine = _engine(manifest)
    model = _model(manifest, licence)
    return {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, manifest['digest'])}",
        "version": 1,
        "metadata": {
            "component": engine,
            "tools": {"components": [{"type": "application", "name": "trtllm-kit", "version": __version__}]},
        },
        "components": [model, *stack, *files],
        "dependencies": [
            {"ref": engine["bom-ref"], "dependsOn": [model["bom-ref"], *(row["bom-ref"] for row in stack)]}
        ],
    }


def _engine(manifest: Mapping[str, Any]) -> dict[str, Any]:
    target = manifest["target"]
    facts = {name: manifest[name] for name in ("precision", "runtime")} | {
        name: target[name] for name in ("sku", "tp_size", "pp_size")
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": "artifact",
        "name": manifest["identifier"],
        "version": manifest["digest"],
        "properties": [{"name": f"trtllm-kit:{name}", "value": str(value)} for name, value in facts.items()],
    }


def _model(manifest: Mapping[str, Any], licence: str | None) -> dict[str, Any]:
    model, purl = manifest["model"], model_purl(manifest)
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": manifest["spec"]["model"],
        **({"version": model["revision"]} if "revision" in model else {}),
        **({"purl": purl} if purl else {}),
        **({"licenses": [{"license": _licence(licence)}]} if licence else {}),
        "hashes": [_sha256(model["digest"])],
        "modelCard": {
            "modelParameters": {"modelArchitecture": model["architecture"]},
            **_measured(manifest.get("quality", {}).get("overall", {}).get("metrics", {})),
        },
    }


def _measured(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    rows = [
        {
            "type": name,
            "value": str(metric["value"]),
            "confidenceInterval": {"lowerBound": str(metric["low"]), "upperBound": str(metric["high"])},
        }
        for name, metric in sorted(metrics.items())
    ]
    return {"quantitativeAnalysis": {"performanceMetrics": rows}} if rows else {}


def _component(key: str, version: str) -> dict[str, Any]:
    if key == "triton_image":
        image = image_parts(version)
        return {
            "type": "container",
            "bom-ref": f"stack:{key}",
            "name": image.name,
            "version": image.tag or image.digest or "",
            **({"hashes": [_sha256(image.digest)]} if image.digest else {}),
            "purl": image.purl,
        }
    name, kind, purl = _STACK.get(key, (key, "library", None))
    row = {"type": kind, "bom-ref": f"stack:{key}", "name": name, "version": version}
    return {**row, "purl": f"{purl}@{version}"} if purl else row


def _licence(text: str) -> dict[str, str]:
    known = _SPDX.get(text.lower())
    return {"id": known} if known else {"name": text}


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
