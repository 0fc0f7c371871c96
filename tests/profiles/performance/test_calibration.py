"""The user's own points pull predictions towards what was measured, and the basis says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from profiles import skus
from profiles.model_shape import find
from profiles.performance import Setup, at_concurrency, max_throughput

SETUP = Setup(
    shape=find("llama-3.1-8b"), precision="fp8", kv_bits=8, sku=skus.find("h100_sxm"), tp_size=1, trtllm_version="1.2.1"
)
LEVELS = [(1000, 500, 4), (1000, 500, 16), (1000, 500, 64), (2000, 200, 8), (500, 1000, 32), (128, 128, 16)]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTLLM_KIT_PROFILES", str(tmp_path / "profiles"))
    return tmp_path / "profiles"


def points(slower: float) -> dict[str, Any]:
    """What a host would measure that is `slower` than predicted in both phases."""
    measured = []
    for isl, osl, concurrency in LEVELS:
        seen = at_concurrency(SETUP, isl, osl, concurrency)
        measured.append(
            {
                "isl": isl,
                "osl": osl,
                "concurrency": concurrency,
                "tpot_ms": seen.tpot_ms.value * slower,
                "ttft_ms": seen.ttft_ms.value * slower,
            }
        )
    return {"model": "llama-3.1-8b", "precision": "fp8", "tp": 1, "trtllm_version": "1.2.1", "points": measured}


def calibrate(kit: Any, tmp_path: Path, own_folder: Path, content: Any, *more: str) -> Any:
    path = tmp_path / "points.json"
    path.write_text(json.dumps(content))
    arguments = ("profile", "calibrate", str(path), "--sku", "h100_sxm", *more)
    return kit.run(*arguments, TRTLLM_KIT_PROFILES=str(own_folder))


def test_points_move_predictions_towards_them(kit: Any, tmp_path: Path, own_folder: Path) -> None:
    before, limit = at_concurrency(SETUP, 1000, 1000, 32), max_throughput(SETUP, 1000, 1000)
    done = calibrate(kit, tmp_path, own_folder, points(1.2), "--output", "json")
    assert done.code == 0, done.err
    after = at_concurrency(SETUP, 1000, 1000, 32)
    assert after.tpot_ms.value / before.tpot_ms.value == pytest.approx(1.2, rel=0.02)
    assert 1 < after.ttft_ms.value / before.ttft_ms.value < 1.25
    assert max_throughput(SETUP, 1000, 1000).value / limit.value == pytest.approx(1 / 1.2, rel=0.02)
    assert after.tpot_ms.basis.startswith("6 own points")
    assert after.tpot_ms.high / after.tpot_ms.low < before.tpot_ms.high / before.tpot_ms.low


def test_calibrating_twice_with_the_same_points_changes_nothing(kit: Any, tmp_path: Path, own_folder: Path) -> None:
    content = points(1.2)
    calibrate(kit, tmp_path, own_folder, content)
    once = (own_folder / "calibration.json").read_text()
    calibrate(kit, tmp_path, own_folder, content)
    assert (own_folder / "calibration.json").read_text() == once


def test_another_sku_is_left_alone(kit: Any, tmp_path: Path, own_folder: Path) -> None:
    from dataclasses import replace

    other = replace(SETUP, sku=skus.find("h200_sxm"))
    before = at_concurrency(other, 1000, 1000, 32)
    calibrate(kit, tmp_path, own_folder, points(1.3))
    assert at_concurrency(other, 1000, 1000, 32) == before


def test_a_report_of_validate_is_read(kit: Any, tmp_path: Path, own_folder: Path) -> None:
    levels = [
        {
            "concurrency": point["concurrency"],
            "completed": 16,
            "errors": {},
            "impossible": [],
            "output_tokens_per_s": 1.0,
            "ttft_ms": {"mean": point["ttft_ms"]},
            "tpot_ms": {"mean": point["tpot_ms"]},
        }
        for point in points(1.1)["points"]
    ]
    report = {
        "about": {"identifier": "llama-3.1-8b-fp8-h100_sxm-tp1pp1-pytorch", "versions": {"trtllm": "1.2.1"}},
        "checks": [{"name": "throughput", "data": {"levels": levels, "input_len": 1000, "output_len": 500}}],
    }
    done = calibrate(kit, tmp_path, own_folder, report)
    assert done.code == 0, done.err
    assert "from 6 points" in done.out


def test_too_few_points_are_refused(kit: Any, tmp_path: Path, own_folder: Path) -> None:
    content = points(1.1)
    content["points"] = content["points"][:2]
    done = calibrate(kit, tmp_path, own_folder, content)
    assert done.code == 3
    assert "too few" in done.err
    assert not own_folder.exists()


def test_a_point_without_figures_is_named(kit: Any, tmp_path: Path, own_folder: Path) -> None:
    content = points(1.1)
    del content["points"][3]["tpot_ms"], content["points"][3]["ttft_ms"]
    done = calibrate(kit, tmp_path, own_folder, content)
    assert done.code == 3
    assert "point 4" in done.err
