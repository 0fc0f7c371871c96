"""`artifact sign`, `artifact verify --key` and `deploy --require-signed`, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MakeArtifact = Callable[..., Path]
MakeKey = Callable[..., tuple[Path, Path]]
VERSIONS = {"tensorrt_llm": "1.2.1", "triton_image": "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"}


def test_from_a_new_key_to_a_deployment(kit: Any, make_artifact: MakeArtifact, make_key: MakeKey) -> None:
    folder = make_artifact(versions=VERSIONS, target__sku="h100_sxm", runtime="tensorrt")
    artifact, out = str(folder), kit.folder / "out"
    deploy = ("deploy", artifact, "--to", "compose", "--out", str(out))
    stranger = str(make_key()[1])
    assert kit.run(*deploy, "--require-signed").code == 2
    unsigned = kit.run(*deploy, "--require-signed", "--key", stranger)
    assert unsigned.code == 15
    assert "is not signed" in unsigned.err

    signed = kit.ok("artifact", "sign", artifact, "--new-key", "release.pem", "--output", "json").json
    assert [Path(name).name for name in signed["files"]] == ["sbom.cdx.json", "provenance.json", "model.sig"]
    checked = kit.ok("artifact", "verify", artifact, "--key", signed["public_key"], "--output", "json").json
    assert (checked["signed"], checked["signature_checked"]) == (True, True)
    refused = kit.run(*deploy, "--key", stranger)
    assert refused.code == 15
    assert not out.exists()
    kit.ok(*deploy, "--require-signed", TRTLLM_KIT_KEY=str(kit.folder / "release.pem.pub"))
    assert out.exists()


def test_which_key_signs_has_to_be_said(kit: Any, make_artifact: MakeArtifact, make_key: MakeKey) -> None:
    artifact, (private, public) = str(make_artifact()), make_key(passphrase="correct horse")
    assert kit.run("artifact", "sign", artifact).code == 2
    assert kit.run("artifact", "sign", artifact, "--key", str(private), "--new-key", "x.pem").code == 2
    assert not (kit.folder / "x.pem").exists()
    assert kit.run("artifact", "sign", artifact, "--key", str(private)).code == 3
    done = kit.ok("artifact", "sign", artifact, "--key", str(private), TRTLLM_KIT_KEY_PASSPHRASE="correct horse")
    assert "correct horse" not in done.out + done.err
    kit.ok("artifact", "verify", artifact, "--key", str(public))


def test_the_licence_comes_from_the_model_card(kit: Any, make_artifact: MakeArtifact, make_key: MakeKey) -> None:
    artifact, (private, _) = make_artifact(), make_key()
    sign = ("artifact", "sign", str(artifact), "--key", str(private), "--model-card", "README.md")
    assert kit.run(*sign).code == 3
    assert not (artifact / "provenance.json").exists()
    (kit.folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    kit.ok(*sign)
    model = json.loads((artifact / "sbom.cdx.json").read_text())["components"][0]
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
