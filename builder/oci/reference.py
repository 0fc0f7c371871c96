"""Where an artifact lies in a registry: `oci://host[:port]/repository[:tag][@sha256:digest]`, one parser."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from trtllm_kit.errors import UsageError

SCHEME = "oci://"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATTERN = re.compile(
    r"oci://(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)"
    rf"/(?P<repository>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A place in a registry, by tag, by digest or by both; the digest then decides."""

    host: str
    repository: str
    tag: str | None
    digest: str | None  # of the image's manifest, "sha256:..."

    @classmethod
    def parse(cls, text: str) -> Reference:
        """UsageError with the expected form; a tag or a digest has to be there."""
        match = _PATTERN.fullmatch(text)
        if match is None or not (match["tag"] or match["digest"]):
            raise UsageError(
                f"'{text}' is no place in a registry",
                expected="oci://host[:port]/repository:tag or oci://host[:port]/repository@sha256:...",
                fix="repositories have small letters, digits and single separators",
            )
        return cls(**match.groupdict())

    def at(self, digest: str) -> Reference:
        """The same place, named by what lies there now."""
        return replace(self, tag=None, digest=digest)

    @property
    def name(self) -> str:
        """What the registry is asked for."""
        return self.digest or self.tag or ""

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is on this machine."""
        host = self.host if self.host.endswith("]") else self.host.rsplit(":", 1)[0]
        return host in ("localhost", "[::1]") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None

    def __str__(self) -> str:
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.digest else ""
        return f"{SCHEME}{self.host}/{self.repository}{tag}{digest}"
