"""Keys in PEM files: the curves that model signatures know, told apart from all else that such a file may hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_kit.errors import HostError, SpecError
from trtllm_kit.files import disk_errors

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PASSPHRASE_VARIABLE = "TRTLLM_KIT_KEY_PASSPHRASE"
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_KIND = "an elliptic curve key (P-256, P-384 or P-521) in a PEM file"


def new_pair(private: Path) -> Path:
    """Write a new P-256 key, under the passphrase of the environment if there is one, and its public half.

    Returns the public key's file: the private one's name and `.pub`. Neither may be there already.
    """
    needs_extra()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = private.with_name(private.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise SpecError(f"{path} is there already", expected="a new file", fix="name another file, or sign with it")
    key, phrase = ec.generate_private_key(ec.SECP256R1()), passphrase()
    encryption = serialization.BestAvailableEncryption(phrase) if phrase else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    with disk_errors(private):
        private.parent.mkdir(parents=True, exist_ok=True)
        private.touch(mode=0o600, exist_ok=False)
        private.write_bytes(pem)
        public.write_bytes(_public_pem(key))
    return public


def passphrase() -> bytes | None:
    """Of private keys, from the environment: what stands on a command line, other users can read."""
    return os.environ.get(PASSPHRASE_VARIABLE, "").encode() or None


def unlock(private: Path) -> bytes | None:
    """Check that `private` is a key to sign with; returns the passphrase that it needs.

    Raises SpecError for any other content, for a passphrase that is missing and for one that is wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read(private)
    phrase = passphrase() if b"ENCRYPTED" in pem else None
    if b"ENCRYPTED" in pem and phrase is None:
        raise SpecError(
            f"{private} is protected by a passphrase",
            expected=f"the passphrase in the environment variable {PASSPHRASE_VARIABLE}",
        )
    try:
        key = load_pem_private_key(pem, phrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SpecError(_what_else(private, pem), expected=f"{_KIND}: the private half") from None
    _check_curve(private, key)
    return phrase


def check_public(public: Path) -> None:
    """Check that `public` is a key to verify with; SpecError for any other content."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem = _read(public)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise SpecError(_what_else(public, pem), expected=f"{_KIND}: the public half") from None
    _check_curve(public, key)


def needs_extra() -> None:
    """HostError that names the extra, unless all that signatures need is installed."""
    try:
        # model-signing imports OpenSSL without asking for it.
        import model_signing  # noqa: F401
        import OpenSSL  # noqa: F401
    except ImportError as error:
        raise HostError(
            f"signatures need {error.name}", expected="the extra `sign`", fix="pip install 'trtllm-kit[sign]'"
        ) from None


def _read(path: Path) -> bytes:
    needs_extra()
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpecError(f"the key {path} cannot be read: {error.strerror}", expected=_KIND) from None


def _what_else(path: Path, pem: bytes) -> str:
    if b"ENCRYPTED" in pem and passphrase() is not None:
        return f"the passphrase in {PASSPHRASE_VARIABLE} does not open {path}"
    for half in ("PRIVATE", "PUBLIC"):
        if f"{half} KEY-----".encode() in pem:
            return f"{path} holds no {'public' if half == 'PRIVATE' else 'private'} key but a {half.lower()} one"
    return f"{path} holds no key"


def _check_curve(path: Path, key: object) -> None:
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in _CURVES:
        raise SpecError(
            f"{path} holds a key of another kind ({curve or type(key).__name__.lstrip('_')})",
            expected=_KIND,
            fix="make one with `trtllm-kit artifact sign --new-key FILE`",
        )


def _public_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
