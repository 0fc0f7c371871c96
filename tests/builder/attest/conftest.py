"""Keys of every kind that a PEM file may hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

MAKERS: dict[str, Callable[[], ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}
MakeKey = Callable[..., tuple[Path, Path]]


@pytest.fixture
def make_key(tmp_path: Path) -> MakeKey:
    """`make_key("p256", passphrase="...")`: the files of a private key and of its public half."""

    def make(kind: str = "p256", *, passphrase: str = "", name: str = "") -> tuple[Path, Path]:
        key, encoding = MAKERS[kind](), serialization.Encoding.PEM
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase.encode())
        private, public = (tmp_path / f"{name or kind}.{half}.pem" for half in ("private", "public"))
        private.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption))
        public.write_bytes(key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
        return private, public

    return make
