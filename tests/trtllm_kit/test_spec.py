"""The spec is strict: what it does not know is refused with the nearest key that it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtllm_kit import spec as specs
from trtllm_kit.errors import SpecError


def test_every_wrong_key_is_named_with_the_nearest_right_one() -> None:
    with pytest.raises(SpecError) as caught:
        specs.parse({"model": "m", "precison": "bf16", "build": {"max_batchsize": 8}, "target": {"skuu": "l4"}})
    text = str(caught.value)
    assert "'precison', did you mean 'precision'" in text
    assert "'build.max_batchsize', did you mean 'max_batch_size'" in text
    assert "'target.skuu', did you mean 'sku'" in text


@pytest.mark.parametrize(
    ("tree", "telling"),
    [
        ({}, "'model' is missing"),
        ({"model": 3}, "'model'"),
        ({"model": "m", "build": {"max_batch_size": 0}}, "build.max_batch_size"),
        ({"model": "m", "build": {"max_batch_size": "8"}}, "build.max_batch_size"),
        ({"model": "m", "build": {"remove_input_padding": True}}, "build.remove_input_padding"),
        ({"model": "m", "kv_cache": {"free_gpu_memory_fraction": 1.5}}, "kv_cache.free_gpu_memory_fraction"),
        ({"model": "m", "validation": {"concurrencies": []}}, "validation.concurrencies"),
    ],
)
def test_wrong_values_are_refused_by_name(tree: dict[str, object], telling: str) -> None:
    with pytest.raises(SpecError) as caught:
        specs.parse(tree)
    assert telling in str(caught.value)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trtllm-kit.yaml"
    path.write_text("model: m\nbuild: {max_batch_size: 4}\n")
    spec = specs.load(path, dict(map(specs.override, ["build.max_batch_size=16", "target.sku=l40s"])))
    assert (spec.build.max_batch_size, spec.target.sku) == (16, "l40s")


@pytest.mark.parametrize("text", ["build.max_batch_size", "=3", "a=[1"])
def test_an_override_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--set"):
        specs.override(text)


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(SpecError, match="'model' is a value"):
        specs.parse({"model": "m"}, {"model.name": "x"})


@pytest.mark.parametrize("content", [b"", b"- a\n", b"model: [", b"\xff\xfe\x00"])
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trtllm-kit.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        specs.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="trtllm-kit init"):
        specs.load(tmp_path / "none.yaml")


def test_a_model_folder_is_taken_from_where_the_spec_lies(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "trtllm-kit.yaml"
    path.write_text("model: model\n")
    assert specs.load(path).model == str(tmp_path / "model")


def test_text_beside_the_spec_is_found_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("{}\n")
    path = tmp_path / "trtllm-kit.yaml"
    path.write_text("model: org/name\ncalibration: {data: own.jsonl}\nevaluation: {data: [own.jsonl, absent.jsonl]}\n")
    spec = specs.load(path)
    assert spec.model == "org/name"
    assert spec.calibration.data == str(tmp_path / "own.jsonl")
    assert spec.evaluation.data == [str(tmp_path / "own.jsonl"), "absent.jsonl"]
