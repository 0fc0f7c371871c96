"""Which digest an image's tag means at this moment, asked of its registry without credentials and without pulling.

OCI distribution specification 1.1, "Pulling manifests": HEAD of the manifest answers `Docker-Content-Digest`. Public
registries want an anonymous token first, and say where to get it in `WWW-Authenticate` (distribution's token
specification).
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from urllib.parse import urlencode

from builder.oci.reference import Reference
from trtllm_kit.errors import HostError

_TIMEOUT_S = 10.0
_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


def image_key(image: str) -> str:
    """What a night's record calls an image among all that is upstream."""
    return f"image {image}"


def wanted_digest(image: str) -> str:
    """As `image_digest`; HostError also where the user wants no network."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise HostError(f"{image} was not asked for: HF_HUB_OFFLINE is set", expected="network")
    return image_digest(image)


def image_digest(image: str) -> str:
    """``sha256:...`` of an image such as ``nvcr.io/nvidia/tritonserver:26.07-py3``; HostError when it cannot be had."""
    place = Reference.parse(f"oci://{image}")
    scheme = "http" if place.is_loopback else "https"
    url = f"{scheme}://{place.host}/v2/{place.repository}/manifests/{place.name}"
    try:
        digest = _digest(url, token=None)
    except (OSError, ValueError) as error:
        raise HostError(
            f"the registry {place.host} cannot be asked for {image}: {getattr(error, 'reason', error)}",
            expected="network, and an image that anybody may read",
            fix="nothing, where there is no network: all else is watched without it",
        ) from None
    if digest is None:
        raise HostError(f"the registry {place.host} names no digest of {image}", expected="a registry of OCI images")
    return digest


def _digest(url: str, token: str | None) -> str | None:
    headers = {"Accept": _ACCEPT, **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers, method="HEAD"), timeout=_TIMEOUT_S
        ) as answer:
            found = answer.headers.get("Docker-Content-Digest")
            return None if found is None else str(found)
    except urllib.error.HTTPError as refusal:
        with refusal:
            challenge = refusal.headers.get("WWW-Authenticate", "")
        if refusal.code != 401 or token is not None or not challenge.lower().startswith("bearer "):
            raise
        return _digest(url, _anonymous_token(challenge))


def _anonymous_token(challenge: str) -> str:
    """By ``Bearer realm="https://...",service="...",scope="..."``."""
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = asked.pop("realm", "")
    if not realm.startswith(("https://", "http://")):
        raise ValueError("it wants a token and does not say from where")
    url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}" if asked else realm
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        tree = json.load(answer)
    return str(tree.get("token") or tree["access_token"])
