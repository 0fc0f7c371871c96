"""Layers: the same bytes for the same files, and nothing but plain files comes out of one."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.oci.image import Blob
from builder.oci.layers import Layer, layers_of
from builder.oci.unpack import unpack
from trtllm_kit.errors import IntegrityError

NAMES = st.text("abcdeü_. ", min_size=1, max_size=120).filter(lambda name: name.strip(". ") == name != "")
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=1500), max_size=6)


def _free_of_clashes(tree: dict[str, bytes]) -> bool:
    return not any(other.startswith(f"{name}/") for name in tree for other in tree)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES.filter(_free_of_clashes))
def test_what_is_packed_comes_out_again(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes]) -> None:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name, content in tree.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    for layer in layers_of(source):
        content = b"".join(layer)
        assert len(layer) == len(content)
        assert layer.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
        unpack(io.BytesIO(content), Blob(digest=layer.digest, size_bytes=len(content)), target)
    assert {
        path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()
    } == tree


def test_layers_do_not_know_when_and_by_whom_files_were_written(tmp_path: Path) -> None:
    digests = set()
    for at, mode in ((0, 0o644), (10**9, 0o600)):
        folder = tmp_path / str(at) / "artifact"
        (folder / "engine").mkdir(parents=True)
        (folder / "engine" / "a").write_bytes(b"a")
        (folder / "engine" / "a").chmod(mode)
        os.utime(folder / "engine" / "a", (at, at))
        digests.add(layers_of(folder)[0].digest)
    assert len(digests) == 1


def test_parts_are_layers_of_their_own(tmp_path: Path) -> None:
    for name in ("manifest.json", "tokenizer/t", "engine/rank0", "engine/deep/x", "engine-notes/n", "a.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [layer.names for layer in layers_of(tmp_path)]
    assert names == [
        ("engine-notes/n",),
        ("engine/deep/x", "engine/rank0"),
        ("tokenizer/t",),
        ("a.yaml", "manifest.json"),
    ]


def test_a_file_that_shrinks_while_it_is_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    layer = Layer(root=tmp_path, names=("a",))
    assert len(layer) == 2048
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(IntegrityError, match="became shorter"):
        b"".join(layer)


def _member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    body = content + bytes(-len(content) % 512) if kind == tarfile.REGTYPE else b""
    return info.tobuf(tarfile.PAX_FORMAT) + body


END = bytes(1024)
REFUSED: dict[str, tuple[bytes, str]] = {
    "parent": (_member("../x") + END, "leads out"),
    "parent inside": (_member("engine/../../x") + END, "leads out"),
    "absolute": (_member("/tmp/x") + END, "leads out"),
    "symbolic link": (_member("x", kind=tarfile.SYMTYPE, link="/etc/passwd") + END, "a link or a special file"),
    "hard link": (_member("x", kind=tarfile.LNKTYPE, link="/etc/passwd") + END, "a link or a special file"),
    "device": (_member("x", kind=tarfile.CHRTYPE) + END, "a link or a special file"),
    "pipe": (_member("x", kind=tarfile.FIFOTYPE) + END, "a link or a special file"),
    "twice": (_member("x") + _member("x") + END, "is there twice"),
    "file as a folder": (_member("x") + _member("x/y") + END, "is there twice"),
    "folder as a file": (_member("x/y") + _member("x") + END, "is there twice"),
    "a name that no disk takes": (_member("x" * 300) + END, "too long a name"),
    "a name with an end in it": (
        tarfile.TarInfo("x").create_pax_header({**tarfile.TarInfo("x").get_info(), "name": "a\0ü"}, "utf-8") + END,
        "leads out|no tar",
    ),
    "cut off": (_member("x", content=b"y" * 5000)[:2000], "no tar|other bytes|not what its digest"),
    "garbage": (b"\x01" * 2048, "no tar"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_holds_more_than_plain_files_is_refused(tmp_path: Path, name: str) -> None:
    content, words = REFUSED[name]
    into = tmp_path / "into"
    into.mkdir()
    blob = Blob(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", size_bytes=len(content))
    with pytest.raises(IntegrityError, match=words):
        unpack(io.BytesIO(content), blob, into)
    assert [path.name for path in tmp_path.iterdir()] == ["into"]
    assert not any(path.is_symlink() for path in into.rglob("*"))


@pytest.mark.parametrize("name", ["another byte", "too short", "too long"])
def test_other_bytes_than_the_digest_says_are_refused(tmp_path: Path, name: str) -> None:
    content = _member("x", content=bytes(2000)) + END
    sent = {
        "another byte": content[:600] + b"!" + content[601:],
        "too short": content[:-512],
        "too long": content + END,
    }
    blob = Blob(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", size_bytes=len(sent[name]))
    with pytest.raises(IntegrityError, match="not what its digest says"):
        unpack(io.BytesIO(sent[name]), blob, tmp_path)


def test_nothing_is_read_beyond_the_promised_size(tmp_path: Path) -> None:
    content = _member("x") + END
    stream = io.BytesIO(content + bytes(10**6))
    unpack(stream, Blob(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", size_bytes=len(content)), tmp_path)
    assert stream.tell() == len(content)
