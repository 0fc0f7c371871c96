"""Headers that lie: every way that a file can disagree with itself is found before a weight is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from builder.safetensors_index import read_header
from trtllm_kit.errors import IntegrityError


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, end: int, *, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def test_what_the_safetensors_package_writes_is_read(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(3, 5, dtype=torch.bfloat16),
        "b": torch.ones(7),
        "c": torch.tensor(2.0),
        "d": torch.ones(0),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "x.safetensors")
    assert {name: (item.dtype, item.shape) for name, item in found.items()} == {
        "a": ("BF16", (3, 5)), "b": ("F32", (7,)), "c": ("F32", ()), "d": ("F32", (0,)),
    }  # fmt: skip
    data = (tmp_path / "x.safetensors").read_bytes()
    assert data[found["b"].start :][: found["b"].size_bytes] == tensors["b"].numpy().tobytes()


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        (b"not json", b"", "not JSON"),
        (b'{"a": 1', b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
        ([], b"", "not an object"),
        ({}, b"", "holds no tensor"),
        ({"__metadata__": {}}, b"", "holds no tensor"),
        ({"a": 3}, b"", "not an object"),
        ({"a": {"dtype": "U8"}}, b"", "no dtype, shape or offsets"),
        ({"a": entry(0, 4, shape=[-4])}, b"1234", "no dtype, shape or offsets"),
        ({"a": entry(0, 4, dtype="F6")}, b"1234", "dtype F6"),
        ({"a": entry(0, 4, shape=[5])}, b"1234", "should take 5 bytes"),
        ({"a": entry(0, 4, dtype="F16")}, b"1234", "should take 8 bytes"),
        ({"a": entry(0, 4), "b": entry(2, 6)}, b"123456", "overlaps"),
        ({"a": entry(0, 4), "b": entry(5, 6)}, b"123456", "follows a hole"),
        ({"a": entry(1, 4)}, b"1234", "follows a hole"),
        ({"a": entry(0, 9)}, b"1234", "cut short"),
        ({"a": entry(0, 2)}, b"1234", "2 bytes follow"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
         b"1", "appears twice"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_is_refused(header: Any, data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as refused:
        read_header(write(tmp_path / "x.safetensors", header, data))
    assert why in refused.value.happened
    assert "x.safetensors" in refused.value.happened


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\0" * 8, b"\xff" * 8, b"\xff" * 64, b"\x10" + b"\0" * 7 + b"{}"])
def test_files_without_a_whole_header_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError):
        read_header(tmp_path / "x.safetensors")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000), flip=st.tuples(st.integers(0, 400), st.integers(1, 255)))
def test_no_damage_ends_in_anything_but_a_refusal(
    cut: int, flip: tuple[int, int], tmp_path: Path, make_damage: Callable[..., bytes]
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(make_damage(cut=cut))
    with pytest.raises(IntegrityError):
        read_header(path)
    path.write_bytes(make_damage(flip=flip))
    try:
        read_header(path)
    except IntegrityError as refused:
        assert refused.fix


@pytest.fixture
def make_damage(tmp_path: Path) -> Callable[..., bytes]:
    save_file({"a": torch.zeros(30, 40), "b": torch.ones(9, dtype=torch.float16)}, tmp_path / "sound.safetensors")
    sound = (tmp_path / "sound.safetensors").read_bytes()

    def damage(*, cut: int | None = None, flip: tuple[int, int] | None = None) -> bytes:
        if cut is not None:
            return sound[: cut % len(sound)]
        assert flip is not None
        changed = bytearray(sound)
        changed[flip[0] % len(sound)] ^= flip[1]
        return bytes(changed)

    return damage
