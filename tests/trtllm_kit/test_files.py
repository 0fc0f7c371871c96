"""What is written is complete or absent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trtllm_kit.errors import HostError, SpecError
from trtllm_kit.files import canonical_json, fingerprint, is_leftover, new_folder, read_json, write_text_atomic


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"
    with new_folder(final) as folder:
        (folder / "a").write_text("x")
        assert not final.exists()
    assert (final / "a").read_text() == "x"
    assert list(final.parent.iterdir()) == [final]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "final") as folder:
        (folder / "a").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    with new_folder(tmp_path / "final") as second:
        (second / "who").write_text("second")
        with new_folder(tmp_path / "final") as first:
            (first / "who").write_text("first")
    assert (tmp_path / "final" / "who").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "final"]


def test_leftovers_of_dead_processes_are_told_from_those_of_living_ones(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    assert is_leftover(tmp_path / f".x~{host}~{dead.pid}~0.tmp", host)
    assert not is_leftover(tmp_path / f".x~{host}~{os.getpid()}~0.tmp", host)
    assert not is_leftover(tmp_path / f".x~elsewhere~{dead.pid}~0.tmp", host)
    assert not is_leftover(tmp_path / "somebody-elses.tmp", host)


def test_a_path_through_a_file_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="TRTLLM_KIT_STORE"), new_folder(tmp_path / "file" / "final"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_refused_with_advice(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with pytest.raises(HostError, match="free some space"), new_folder(final), Path("/dev/full").open("w") as full:
        full.write("x" * 100_000)
    assert not final.exists()


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": 1, "a": ["é"]}) == '{"a":["é"],"b":1}'.encode()
    assert fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text_atomic(path, "1")
    write_text_atomic(path, "2")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("2", [path])


@pytest.mark.parametrize("content", [b"{", b"\xff"])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(SpecError, match=r"the config is not JSON: .*c\.json"):
        read_json(tmp_path / "c.json", "the config")
