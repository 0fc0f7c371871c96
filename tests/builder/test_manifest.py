"""Validations are written beside what the digest is of: an artifact with them is as intact as before."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from builder import manifest
from trtllm_kit.errors import IntegrityError
from trtllm_kit.files import fingerprint, pretty_json, sha256_file


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    body = {"format": 1, "identifier": "x", "files": {"weights": sha256_file(folder / "weights")}}
    (folder / "manifest.json").write_text(pretty_json({**body, "digest": fingerprint(body)}))
    os.utime(folder / "manifest.json", (1e9, 1e9))
    return folder


def test_an_artifact_with_validations_is_intact_and_not_newer(artifact: Path) -> None:
    digest = manifest.load(artifact)["digest"]
    for status in ("pass", "fail"):
        manifest.append_validation(artifact, {"sku": "l4", "status": status})
    content = manifest.verify(artifact)
    assert content["digest"] == digest
    assert [entry["status"] for entry in content["validations"]] == ["pass", "fail"]
    assert (artifact / "manifest.json").stat().st_mtime == 1e9
    assert [path.name for path in artifact.parent.iterdir()] == ["artifact"]


def test_other_changes_are_still_found(artifact: Path) -> None:
    manifest.append_validation(artifact, {"sku": "l4", "status": "pass"})
    content = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps({**content, "identifier": "y"}))
    with pytest.raises(IntegrityError, match="its own digest"):
        manifest.verify(artifact)


def test_writers_at_the_same_time_lose_nothing(artifact: Path) -> None:
    def write(number: int) -> None:
        for at in range(5):
            manifest.append_validation(artifact, {"sku": "l4", "status": "pass", "number": 5 * number + at})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry["number"] for entry in manifest.verify(artifact)["validations"]) == list(range(20))


def test_the_last_validation_of_the_sku_decides() -> None:
    entries = [{"sku": "l4", "status": "pass"}, {"sku": "t4", "status": "fail"}, {"sku": "h100_sxm", "status": "warn"}]
    content = {"validations": entries}
    assert manifest.passing_validation(content, "l4") is entries[0]
    assert manifest.passing_validation(content, "t4") is None
    assert manifest.passing_validation(content, "h100_sxm") is entries[2]
    assert manifest.passing_validation({"validations": [*entries, {"sku": "l4", "status": "fail"}]}, "l4") is None
    assert manifest.passing_validation({}, "l4") is None
