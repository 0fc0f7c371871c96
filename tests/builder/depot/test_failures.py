"""What a depot says when its store refuses, and what it never does."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from builder import manifest
from builder.depot import Depot
from builder.depot.failures import store_errors
from builder.depot.records import CellName, CellRecord, Entry
from builder.depot.remote import RemoteObjects
from trtllm_kit.console import Silent
from trtllm_kit.errors import HostError, SpecError


@pytest.mark.parametrize("url", ["https://host/depot", "sftp://host/depot", "s4://bucket/depot", "s3://", ""])
def test_a_store_that_cannot_hold_a_depot_is_refused_at_once(url: str) -> None:
    with pytest.raises(SpecError):
        Depot.open(url)


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/depot", "s3://bucket/depot?token=secret"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SpecError, match="credentials") as refused:
        Depot.open(url)
    assert "secret" not in str(refused.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SpecError, match="s3fs") as refused:
        Depot.open("s3://bucket/depot")
    assert refused.value.fix == "pip install 'trtllm-kit[s3]'"


def test_a_file_is_no_depot(tmp_path: Path) -> None:
    (tmp_path / "depot").write_text("")
    with pytest.raises(HostError, match="is a file"):
        Depot.open(str(tmp_path / "depot"))


def test_a_missing_bucket_is_named(s3_environment: dict[str, str]) -> None:
    with pytest.raises(HostError, match="s3://no-such-bucket/depot has no such bucket"):
        Depot.open("s3://no-such-bucket/depot")


def test_an_address_where_nobody_answers_is_named(
    s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(HostError, match="s3://bucket/depot cannot be reached"):
            Depot.open("s3://bucket/depot")


def test_missing_credentials_are_named(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(HostError, match="no credentials"):
        Depot.open("s3://bucket/depot")


def _from_s3(code: str, status: int) -> Exception:
    """What s3fs raises for an answer of S3."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    answer: Any = {"Error": {"Code": code, "Message": "said S3"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    translated = translate_boto_error(ClientError(answer, "PutObject"))
    assert isinstance(translated, Exception)
    return translated


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "is full"),
        (lambda: OSError(errno.EDQUOT, "Disk quota exceeded"), "is full"),
        (lambda: OSError(errno.EROFS, "Read-only file system"), "does not allow"),
        (lambda: OSError(errno.ESTALE, "Stale file handle"), "cannot be reached"),
        (lambda: _from_s3("QuotaExceeded", 403), "is full"),
        (lambda: _from_s3("InsufficientStorage", 507), "is full"),
        (lambda: _from_s3("ExpiredToken", 400), "have expired"),
        (lambda: _from_s3("InvalidAccessKeyId", 403), "refuses the credentials"),
        (lambda: _from_s3("AccessDenied", 403), "does not allow"),
        (lambda: _from_s3("SlowDown", 503), "cannot be reached"),
        (lambda: _from_s3("NotImplemented", 501), "cannot do this"),
        (lambda: _from_s3("SomethingNew", 418), "failed: .*said S3"),
    ],
)
def test_refusals_are_told_apart(error: Callable[[], Exception], words: str) -> None:
    with pytest.raises(HostError, match=f"depot s3://bucket/depot .*{words}"), store_errors("s3://bucket/depot"):
        raise error()


def test_bugs_stay_bugs() -> None:
    with pytest.raises(TypeError), store_errors("s3://bucket/depot"):
        raise TypeError("a bug")


def test_a_store_without_exclusive_creation_moves_no_ref(cell: CellName) -> None:
    def overwrite(filesystem: Any, path: str, data: bytes) -> None:
        filesystem.pipe_file(path, data)

    depot = Depot(RemoteObjects(fsspec.filesystem("memory"), "/careless", "memory://careless", overwrite))
    with pytest.raises(HostError, match="two processes"):
        depot.move(cell, depot.read(cell), CellRecord(words="moved"))
    assert depot.read(cell).number == 0


def test_reading_writes_nothing(tmp_path: Path, cell: CellName) -> None:
    depot = Depot.open(str(tmp_path / "depot"))
    assert depot.read_all() == {} and depot.read(cell).number == 0 and depot.names("nights") == []
    assert depot.collect(keep_days=0, dry_run=True) == []
    assert list(tmp_path.iterdir()) == []


def test_in_a_folder_an_artifact_costs_no_second_copy(
    tmp_path: Path, cell: CellName, artifact: Callable[..., Path], entry: Callable[..., Entry]
) -> None:
    folder, depot = artifact("one"), Depot.open(str(tmp_path / "depot"))
    with depot.publish(folder, talk=Silent()) as upload:
        depot.move(cell, depot.read(cell), CellRecord().built(entry(folder, upload), at_unix_s=1.0))
    held = tmp_path / "depot" / "artifacts" / entry(folder, upload).digest / upload
    assert (held / "engine" / "rank0.engine").samefile(folder / "engine" / "rank0.engine")
    manifest.append_validation(folder, {"status": "pass"})
    assert "validations" not in manifest.verify(held)


def test_what_killed_writers_left_is_swept_after_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depot = Depot.open(str(tmp_path))
    depot.write_text("nights/a/night.json", "{}")
    (tmp_path / ".tmp" / "left").write_text("half")
    Depot.open(str(tmp_path)).write_text("nights/a/night.json", "{}")
    assert (tmp_path / ".tmp" / "left").exists()  # its writer may be alive
    monkeypatch.setattr("builder.depot.folder._ABANDONED_S", -1.0)
    Depot.open(str(tmp_path)).write_text("nights/a/night.json", "{}")
    assert not (tmp_path / ".tmp" / "left").exists()
    assert depot.names("nights/a") == ["nights/a/night.json"]
