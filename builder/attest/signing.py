"""Sign an artifact and check it: OpenSSF model signatures, verified by upstream's own tool too."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from builder import manifest
from builder.attest import keys, provenance, sbom
from trtllm_kit.errors import IntegrityError
from trtllm_kit.files import pretty_json, read_json, sha256_file

SBOM, PROVENANCE, SIGNATURE = manifest.ATTESTATIONS


def sign(artifact: Path, private_key: Path, *, licence: str | None = None, builder_id: str | None = None) -> None:
    """Write the bill of materials, the provenance and the signature of an artifact, in place of those it has.

    The signature is over every file but `manifest.json`, which is bound by the digest in the provenance.
    Raises IntegrityError for an artifact that is damaged and SpecError for a key that cannot sign.
    """
    phrase = keys.unlock(private_key)
    content = manifest.verify(artifact)
    # At each moment the artifact is unsigned or rightly signed.
    (artifact / SIGNATURE).unlink(missing_ok=True)
    manifest.attach(artifact, SBOM, pretty_json(sbom.make(content, licence=licence)))
    manifest.attach(artifact, PROVENANCE, pretty_json(provenance.make(content, builder_id=builder_id)))
    manifest.attach(artifact, SIGNATURE, _signature(artifact, private_key, phrase))


def verify(artifact: Path, public_key: Path) -> dict[str, Any]:
    """The manifest of an artifact that is, byte for byte, what the holder of the key signed.

    Raises IntegrityError that names what differs, SpecError for a file that holds no public key.
    """
    keys.check_public(public_key)
    content = manifest.verify(artifact)
    if not is_signed(artifact):
        raise IntegrityError(
            f"{artifact} is not signed",
            expected=f"{SBOM}, {PROVENANCE} and {SIGNATURE} beside its manifest",
            fix="sign it with `trtllm-kit artifact sign --key PRIVATE.pem`, or pull the signed one",
        )
    present = {**content["files"], **{name: sha256_file(artifact / name) for name in (SBOM, PROVENANCE)}}
    signed = _signed_files(artifact)
    different = sorted(name for name in {*signed, *present} if signed.get(name) != present.get(name))
    if different:
        raise _refused(artifact, f"other bytes were signed than those of {', '.join(different[:5])}")
    _check_key(artifact, public_key)
    statement = read_json(artifact / PROVENANCE, "the provenance")
    if provenance.subject_digest(statement, content["identifier"]) != content["digest"]:
        raise _refused(artifact, "manifest.json is not the one that was signed")
    return content


def is_signed(artifact: Path) -> bool:
    """Whether an artifact has all that a signature consists of; by whom, only `verify` can tell."""
    return all((artifact / name).is_file() for name in manifest.ATTESTATIONS)


def _signature(artifact: Path, private_key: Path, phrase: bytes | None) -> str:
    from model_signing import hashing, signing

    unsigned = hashing.Config().set_ignored_paths(paths=(manifest.MANIFEST, SIGNATURE), ignore_git_paths=False)
    signer = signing.Config().use_elliptic_key_signer(private_key=private_key, password=phrase)
    temporary = artifact.with_name(f".{artifact.name}.{uuid.uuid4().hex}.tmp")
    try:
        signer.set_hashing_config(unsigned).sign(artifact, temporary)
        return temporary.read_text(encoding="utf-8")
    finally:
        temporary.unlink(missing_ok=True)


def _signed_files(artifact: Path) -> dict[str, str]:
    """sha256 by name as the signature states them; whether a key stands behind it is not asked here."""
    try:
        bundle = json.loads((artifact / SIGNATURE).read_text(encoding="utf-8"))
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        rows = payload["predicate"]["resources"]
        return {row["name"]: row["digest"] for row in rows if row["algorithm"] == "sha256"}
    except (ValueError, KeyError, TypeError):
        raise _refused(artifact, "it is no OpenSSF model signature") from None


def _check_key(artifact: Path, public_key: Path) -> None:
    from model_signing import verifying

    try:
        # Upstream prints what it thinks of old signatures, and stdout is for results.
        with contextlib.redirect_stdout(sys.stderr):
            verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(artifact, artifact / SIGNATURE)
    except Exception as error:  # upstream fails with its own errors and with those of three libraries below it
        reason = str(error).strip() or type(error).__name__
        raise _refused(artifact, f"the key {public_key} did not make it ({reason})") from None


def _refused(artifact: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{artifact / SIGNATURE} does not hold: {reason}",
        expected="the signature that the holder of the key made of this very artifact",
        fix="do not serve it; ask who built it, or pull it again",
    )
