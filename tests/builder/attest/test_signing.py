"""Signed artifacts: upstream's own tool accepts them, and nothing of them can be changed unseen."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import manifest
from builder.attest import signing
from trtllm_kit.errors import HostError, IntegrityError
from trtllm_kit.files import fingerprint, pretty_json

MakeArtifact = Callable[..., Path]
MakeKey = Callable[..., tuple[Path, Path]]


@pytest.fixture
def signed(make_artifact: MakeArtifact, make_key: MakeKey) -> tuple[Path, Path]:
    """An artifact and the public key that it was signed for."""
    artifact, (private, public) = make_artifact(), make_key()
    signing.sign(artifact, private)
    return artifact, public


@pytest.mark.parametrize("kind", ["p256", "p384", "p521"])
def test_upstreams_own_tool_accepts_the_signature(make_artifact: MakeArtifact, make_key: MakeKey, kind: str) -> None:
    artifact, (private, public) = make_artifact(), make_key(kind)
    signing.sign(artifact, private)
    assert signing.verify(artifact, public) == manifest.load(artifact)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(artifact)]
    command += ["--signature", str(artifact / "model.sig"), "--public_key", str(public)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (artifact / "engine/rank0.engine").write_bytes(b"other")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_same_artifact_has_the_same_statements_wherever_it_lies(
    make_artifact: MakeArtifact, make_key: MakeKey, tmp_path: Path
) -> None:
    private, _ = make_key()
    first = make_artifact()
    second = Path(shutil.copytree(first, tmp_path / "elsewhere" / "x"))
    for artifact in (first, second):
        signing.sign(artifact, private)
    for name in ("sbom.cdx.json", "provenance.json", "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert str(tmp_path) not in (first / name).read_text()


def test_validations_after_the_signature_leave_it_whole(signed: tuple[Path, Path]) -> None:
    artifact, public = signed
    manifest.append_validation(artifact, {"sku": "cpu", "status": "pass"})
    assert signing.verify(artifact, public)["validations"] == [{"sku": "cpu", "status": "pass"}]


def test_signing_anew_replaces_the_signature(signed: tuple[Path, Path], make_key: MakeKey) -> None:
    artifact, old = signed
    private, public = make_key(name="new")
    signing.sign(artifact, private, licence="mit", builder_id="https://ci.example")
    signing.verify(artifact, public)
    with pytest.raises(IntegrityError, match="did not make it"):
        signing.verify(artifact, old)
    assert sorted(path.name for path in artifact.parent.glob(".*")) == []


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(pretty_json(tree))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _manifest_made_to_fit(artifact: Path) -> None:
    """As one would who wants an engine to be served on another target."""

    def change(tree: dict[str, Any]) -> None:
        tree["target"]["sku"] = "l4"
        tree["digest"] = fingerprint({key: value for key, value in tree.items() if key != "digest"})

    _edit(artifact / "manifest.json", change)


def _payload_made_to_fit(artifact: Path) -> None:
    """The file, the manifest and what the signature states are changed together; only the key is missing."""
    (artifact / "sbom.cdx.json").write_text("{}")
    digest = manifest.sha256_file(artifact / "sbom.cdx.json")

    def change(bundle: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        for row in payload["predicate"]["resources"]:
            row["digest"] = digest if row["name"] == "sbom.cdx.json" else row["digest"]
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()

    _edit(artifact / "model.sig", change)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of the engine": (lambda folder: _flip(folder / "engine/rank0.engine"), "engine/rank0.engine has other"),
    "a file more": (lambda folder: (folder / "engine/x.so").write_text("x"), "engine/x.so is not in the manifest"),
    "a second signature": (lambda folder: (folder / "engine/model.sig").write_text("x"), "engine/model.sig is not in"),
    "a file less": (lambda folder: (folder / "spec.yaml").unlink(), "spec.yaml is missing"),
    "the bill": (lambda folder: _edit(folder / "sbom.cdx.json", lambda tree: tree.pop("components")), "sbom.cdx.json"),
    "the provenance": (
        lambda folder: _edit(folder / "provenance.json", lambda tree: tree["subject"].pop()),
        "of provenance.json",
    ),
    "the manifest": (lambda folder: _edit(folder / "manifest.json", lambda tree: tree.pop("spec")), "its own digest"),
    "the manifest and its digest": (_manifest_made_to_fit, "manifest.json is not the one that was signed"),
    "no signature": (lambda folder: (folder / "model.sig").unlink(), "is not signed"),
    "an empty signature": (lambda folder: (folder / "model.sig").write_text("{}"), "no OpenSSF model signature"),
    "another payload": (_payload_made_to_fit, "did not make it"),
    "no key's signature": (
        lambda folder: _edit(
            folder / "model.sig", lambda tree: tree["dsseEnvelope"]["signatures"][0].update(sig="AAAA")
        ),
        "did not make it",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_was_changed_is_found_and_named(signed: tuple[Path, Path], name: str) -> None:
    artifact, public = signed
    damage, words = DAMAGES[name]
    damage(artifact)
    with pytest.raises(IntegrityError, match=words):
        signing.verify(artifact, public)


def test_a_signature_of_another_artifact_does_not_hold(
    make_artifact: MakeArtifact, make_key: MakeKey, signed: tuple[Path, Path]
) -> None:
    private, public = make_key(name="same")
    one, other = make_artifact(), make_artifact({"engine/rank0.engine": b"mine"})
    signing.sign(one, private)
    for name in manifest.ATTESTATIONS:
        shutil.copy(one / name, other / name)
    with pytest.raises(IntegrityError, match=r"other bytes were signed than those of engine/rank0\.engine"):
        signing.verify(other, public)


def test_provenance_of_another_artifact_does_not_hold_under_the_right_key(
    make_artifact: MakeArtifact, make_key: MakeKey
) -> None:
    """Two builds of the same files: only the manifests differ, which no file's hash tells."""
    private, public = make_key()
    one, other = make_artifact(), make_artifact(build__max_batch_size=3)
    signing.sign(one, private)
    for name in manifest.ATTESTATIONS:
        shutil.copy(one / name, other / name)
    with pytest.raises(IntegrityError, match=r"manifest\.json is not the one that was signed"):
        signing.verify(other, public)


def test_a_damaged_artifact_is_not_signed(make_artifact: MakeArtifact, make_key: MakeKey) -> None:
    artifact, (private, _) = make_artifact(), make_key()
    _flip(artifact / "engine/rank0.engine")
    with pytest.raises(IntegrityError, match=r"rank0\.engine has other bytes"):
        signing.sign(artifact, private)
    assert not signing.is_signed(artifact)


def test_the_extra_is_named(make_artifact: MakeArtifact, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, (private, public) = make_artifact(), make_key()
    monkeypatch.setitem(sys.modules, "OpenSSL", None)
    for act in (lambda: signing.sign(artifact, private), lambda: signing.verify(artifact, public)):
        with pytest.raises(HostError, match=r"trtllm-kit\[sign\]"):
            act()
