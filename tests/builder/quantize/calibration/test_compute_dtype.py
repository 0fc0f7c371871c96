"""The dtype of the forward pass: measured once, then remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.quantize.calibration import compute_dtype


def test_what_was_measured_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "deep" / "dtype.json"
    found = compute_dtype.choose("cpu", cache)
    assert found in ("float32", "bfloat16")
    known = json.loads(cache.read_text())
    assert list(known.values()) == [found]
    other = {"float32": "bfloat16", "bfloat16": "float32"}[found]
    cache.write_text(json.dumps(dict.fromkeys(known, other)))
    assert compute_dtype.choose("cpu", cache) == other


def test_a_broken_cache_is_measured_anew(tmp_path: Path) -> None:
    cache = tmp_path / "dtype.json"
    cache.write_text("[")
    assert compute_dtype.choose("cpu", cache) in ("float32", "bfloat16")
    assert json.loads(cache.read_text())


def test_what_cannot_be_remembered_is_measured_all_the_same() -> None:
    assert compute_dtype.choose("cpu", Path("/sys/trtllm-kit/dtype.json")) in ("float32", "bfloat16")


@pytest.mark.parametrize(("seconds", "expected"), [((1.0, 0.6), "bfloat16"), ((1.0, 0.8), "float32")])
def test_bfloat16_has_to_be_clearly_faster(
    seconds: tuple[float, float], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(seconds)
    monkeypatch.setattr(compute_dtype, "_seconds", lambda torch, dtype: left.pop(0))
    assert compute_dtype.choose("cpu", tmp_path / "dtype.json") == expected
