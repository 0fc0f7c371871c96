"""An artifact to a registry; what is there already is not sent again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder import manifest
from builder.oci import image
from builder.oci.layers import Layer, layers_of
from builder.oci.reference import Reference
from builder.oci.registry import Registry
from trtllm_kit.console import Talk


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did."""

    place: Reference  # by digest: what a pod mounts
    sent_bytes: int
    total_bytes: int


def push(artifact: Path, to: Reference, *, insecure: bool, talk: Talk) -> Pushed:
    """Verify an artifact, send the layers that the repository lacks, then publish the image.

    Raises IntegrityError for a damaged artifact, HostError for a registry that is out of reach or refuses.
    """
    content = manifest.verify(artifact)
    registry = Registry(to, insecure=insecure)
    layers = layers_of(artifact)
    missing = [layer for layer in layers if not registry.has_blob(layer.digest)]
    sent, total = 0, sum(layer.size_bytes for layer in missing)
    for layer in missing:
        registry.put_blob(_Watched(layer, talk, sent, total), layer.digest)
        sent += layer.size_bytes
    config = image.config_of(content, layers)
    if not registry.has_blob(image.digest_of(config)):
        registry.put_blob(config, image.digest_of(config))
    published = image.manifest_of(content, config, layers)
    registry.put_manifest(published)
    everything = sum(layer.size_bytes for layer in layers)
    return Pushed(place=to.at(image.digest_of(published)), sent_bytes=sent, total_bytes=everything)


@dataclass(frozen=True)
class _Watched:
    """A layer that says how far it has been read, as a part of all that is sent."""

    layer: Layer
    talk: Talk
    before_bytes: int
    total_bytes: int

    def __len__(self) -> int:
        return len(self.layer)

    def __iter__(self) -> Iterator[bytes]:
        done = self.before_bytes
        for chunk in self.layer:
            yield chunk
            done += len(chunk)
            self.talk.progress(done, self.total_bytes, "sending layers")
