"""How others name what an artifact was made of: package URLs, as bills of materials and provenance both write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.hub import HUB_ID

_IMAGE = re.compile(
    r"(?:(?P<host>[^/@]+[.:][^/@]*)/)?(?P<name>[^:@]+)(?::(?P<tag>[^@]+))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)


@dataclass(frozen=True, kw_only=True)
class Image:
    """A container image by its parts; example: nvcr.io, nvidia/tritonserver, 26.07-trtllm-python-py3."""

    host: str
    name: str
    tag: str | None
    digest: str | None  # sha256, where the image is named by it

    @property
    def purl(self) -> str:
        version = f"sha256:{self.digest}" if self.digest else self.tag or "latest"
        return f"pkg:docker/{self.name}@{version}" + (f"?repository_url={self.host}" if self.host else "")


def image_parts(image: str) -> Image:
    """What `[host/]name[:tag][@sha256:digest]` consists of."""
    match = _IMAGE.fullmatch(image)
    if match is None:
        return Image(host="", name=image, tag=None, digest=None)
    return Image(host=match["host"] or "", name=match["name"], tag=match["tag"], digest=match["digest"])


def model_purl(manifest: Mapping[str, Any]) -> str | None:
    """The model on the Hugging Face hub; None for a folder, whose place is nobody's business."""
    match = HUB_ID.fullmatch(manifest["spec"]["model"])
    if match is None:
        return None
    revision = manifest["model"].get("revision")
    return f"pkg:huggingface/{match['repo']}" + (f"@{revision}" if revision else "")
