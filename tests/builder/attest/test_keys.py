"""Key files: what is no key for the task is told apart, and secrets stay secret."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.attest import keys
from trtllm_kit.errors import SpecError

MakeKey = Callable[..., tuple[Path, Path]]
SECRET = "correct horse"


def test_private_keys_that_cannot_sign(make_key: MakeKey, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"\xff\x00")
    wanted = {
        make_key("p256")[1]: "holds no private key but a public one",
        make_key("rsa")[0]: "another kind",
        make_key("ed25519")[0]: "another kind",
        make_key("secp256k1")[0]: r"another kind \(secp256k1\)",
        empty: "holds no key",
        tmp_path / "none.pem": "cannot be read: No such file",
        tmp_path: "cannot be read: Is a directory",
    }
    for path, words in wanted.items():
        with pytest.raises(SpecError, match=words):
            keys.unlock(path)
    with pytest.raises(SpecError):
        keys.unlock(garbage)


def test_public_keys_that_cannot_verify(make_key: MakeKey, tmp_path: Path) -> None:
    wanted = {
        make_key("p256")[0]: "holds no public key but a private one",
        make_key("rsa")[1]: "another kind",
        make_key("secp256k1")[1]: r"another kind \(secp256k1\)",
        tmp_path / "none.pem": "cannot be read",
    }
    for path, words in wanted.items():
        with pytest.raises(SpecError, match=words):
            keys.check_public(path)


def test_a_passphrase_comes_from_the_environment_and_is_never_shown(
    make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, _ = make_key(passphrase=SECRET, name="locked")
    with pytest.raises(SpecError, match="protected by a passphrase") as missing:
        keys.unlock(locked)
    assert keys.PASSPHRASE_VARIABLE in str(missing.value)
    monkeypatch.setenv(keys.PASSPHRASE_VARIABLE, "wrong guess")
    with pytest.raises(SpecError, match="does not open") as wrong:
        keys.unlock(locked)
    assert "wrong guess" not in str(wrong.value)
    monkeypatch.setenv(keys.PASSPHRASE_VARIABLE, SECRET)
    assert keys.unlock(locked) == SECRET.encode()
    assert keys.unlock(make_key()[0]) is None  # a key without one does not mind


@pytest.mark.parametrize("phrase", ["", SECRET])
def test_a_new_pair_is_for_its_owner_only_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phrase: str
) -> None:
    monkeypatch.setenv(keys.PASSPHRASE_VARIABLE, phrase)
    private = tmp_path / "keys" / "release.pem"
    public = keys.new_pair(private)
    assert public.name == "release.pem.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in private.read_bytes()) == bool(phrase)
    keys.unlock(private)
    keys.check_public(public)
    before = private.read_bytes()
    with pytest.raises(SpecError, match="is there already"):
        keys.new_pair(private)
    private.unlink()
    with pytest.raises(SpecError, match=r"release\.pem\.pub is there already"):
        keys.new_pair(private)
    assert before and not private.exists()
