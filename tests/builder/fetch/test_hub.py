"""Models by name: from a cache laid out as the hub's client does, without any network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.digests import DigestCache
from builder.fetch import fetch
from trtllm_kit.console import Silent
from trtllm_kit.errors import SpecError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import sys
from pathlib import Path
from builder.digests import DigestCache
from builder.fetch import fetch
from trtllm_kit.console import StderrTalk
from trtllm_kit.errors import KitError
try:
    found = fetch(sys.argv[1], trust_remote_code=False, digests=DigestCache(Path("digests.json")), talk=StderrTalk())
    print(found.revision, found.digest, found.source)
except KitError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def ask(make_model: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Fetch in a process of its own, with a cache that holds `acme/tiny` at `main`; returns (stdout, stderr)."""
    repository = tmp_path / "home" / "hub" / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(make_model().path, repository / "snapshots" / COMMIT)

    def run(source: str, **environment: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, source],
            cwd=tmp_path,
            env={"HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin", **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


def test_the_cache_serves_offline(ask: Callable[..., tuple[str, str]]) -> None:
    out, _ = ask("acme/tiny", HF_HUB_OFFLINE="1")
    assert out.startswith(COMMIT)
    assert out.endswith(" acme/tiny\n")
    assert ask("acme/tiny@main", HF_HUB_OFFLINE="1")[0].split()[:2] == out.split()[:2]


def test_the_cache_serves_when_the_hub_does_not_answer(ask: Callable[..., tuple[str, str]]) -> None:
    assert ask("acme/tiny", HF_ENDPOINT="http://127.0.0.1:9")[0].startswith(COMMIT)


def test_a_whole_commit_hash_asks_nobody(ask: Callable[..., tuple[str, str]]) -> None:
    out, talk = ask(f"acme/tiny@{COMMIT}", HF_ENDPOINT="http://127.0.0.1:9")
    assert out.startswith(COMMIT)
    assert "asking" not in talk


def test_a_cache_that_others_filled_in_part_is_no_reason_not_to_ask(
    ask: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "home/hub/models--acme--tiny/snapshots" / COMMIT / "model.safetensors").unlink()
    out, talk = ask(f"acme/tiny@{COMMIT}", HF_HUB_OFFLINE="1")
    assert "asking the Hugging Face hub" in talk
    assert "has no weights" in out


@pytest.mark.parametrize(
    ("source", "environment"),
    [
        ("acme/other", {"HF_HUB_OFFLINE": "1"}),
        ("acme/other", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
        ("acme/tiny@v2", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
        (f"acme/tiny@{'f' * 40}", {"HF_HUB_OFFLINE": "1"}),
    ],
)
def test_neither_hub_nor_cache_is_an_error_of_the_host(
    source: str, environment: dict[str, str], ask: Callable[..., tuple[str, str]]
) -> None:
    out, talk = ask(source, **environment)
    assert out.startswith(f"HostError {source} is no folder, not in the local cache, and the hub cannot be asked")
    assert "hf download" in out
    assert "Traceback" not in talk


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/model", "tiny", "a/b/c", "acme/tiny@", ""])
def test_what_is_neither_folder_nor_id_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no folder") as refused:
        fetch(source, trust_remote_code=False, digests=DigestCache(tmp_path / "d.json"), talk=Silent())
    assert "org/name" in refused.value.expected


def test_a_file_is_refused(make_model: Callable[..., Any], tmp_path: Path) -> None:
    weights = make_model().path / "model.safetensors"
    with pytest.raises(SpecError, match="is a file") as refused:
        fetch(str(weights), trust_remote_code=False, digests=DigestCache(tmp_path / "d.json"), talk=Silent())
    assert str(weights.parent) in refused.value.fix
