"""Whom a client believes over TLS."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_kit.errors import UsageError

if TYPE_CHECKING:
    import ssl

UNTRUSTED = "its certificate is not trusted"


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The system's authorities; those of a file instead; or, with `verify` off, whoever answers."""

    ca_file: str | None = None
    verify: bool = True

    def context(self, protocol: str = "") -> ssl.SSLContext:
        """For connections that offer `protocol` by ALPN; UsageError when `ca_file` holds no certificates."""
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"{self.ca_file}: {error.strerror or 'no certificates in it'}", expected="certificates in PEM"
            ) from None
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if protocol:
            context.set_alpn_protocols([protocol])
        return context


SYSTEM = Trust()


def words_of(error: OSError) -> str:
    """Why a connection failed."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{UNTRUSTED}: {error.verify_message}"
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)  # asyncio's own words repeat the address
    return error.strerror or str(error)
