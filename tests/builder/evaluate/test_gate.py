"""The gate as a person meets it: the command, its exit codes, and what it says when it cannot tell."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builder.evaluate import EvaluationSettings, QualityReport
from builder.evaluate.checks import check_same_tokenizer
from builder.quantize.calibration.texts import read
from trtllm_kit.errors import QualityError, SpecError

Quantized = Callable[..., Path]
Report = Callable[..., QualityReport]


def changed(folder: Path, copy: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint whose tensors are changed in place."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.fixture
def broken(quantized: Quantized, tmp_path: Path) -> Path:
    """Every scale of the layers is half as large again: the codes are right and the model is not."""

    def enlarge(tensors: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("weight_scale"):
                tensor *= 1.5

    return changed(quantized("int8_wo"), tmp_path / "broken", enlarge)


def evaluate(kit: Any, folder: Path, tiny_llama: Path, data: Path, *options: str, **environment: str) -> Any:
    arguments = ("evaluate", str(folder), "--against", str(tiny_llama), "--data", str(data), "--only-data", *options)
    return kit.run(*arguments, **environment)


def test_a_good_checkpoint_passes_and_leaves_a_page(
    kit: Any, quantized: Quantized, tiny_llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, checkpoint, scratch = tmp_path / "report.html", quantized("int8_wo"), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    outcome = evaluate(kit, checkpoint, tiny_llama, data, "--report", str(page), TMPDIR=str(scratch))
    assert outcome.code == 0, outcome.err
    assert "quality: pass" in outcome.out
    assert "mean KL divergence" in outcome.out
    assert page.read_text().startswith("<!doctype html>")
    assert not list(scratch.glob("trtllm-kit-*"))


def test_a_broken_checkpoint_fails(kit: Any, broken: Path, tiny_llama: Path, data: Path) -> None:
    outcome = evaluate(kit, broken, tiny_llama, data, "--output", "json")
    assert outcome.code == 6
    assert outcome.json["decision"] == "fail"
    assert outcome.json["overall"]["metrics"]["kl_mean"]["low"] > 0.1
    assert "lost more quality than its limits allow" in outcome.err


def test_a_limit_of_ones_own_decides(quantized: Quantized, report: Report) -> None:
    found = report(quantized("int8_wo"), limits={"kl_mean": 1e-5})
    assert found.decision == "fail"
    assert found.limits["kl_mean"] == 1e-5
    assert [row.metric for row in found.judgements if row.decision == "fail"] == ["kl_mean"]


def test_too_few_tokens_are_undecided_whatever_they_say(broken: Path, quantized: Quantized, report: Report) -> None:
    for folder in (broken, quantized("int8_wo")):
        found = report(folder, max_tokens=1000)
        assert found.decision == "undecided"
        assert found.slices["overall"].tokens == 1000
        assert "at least 3096 more tokens are needed" in found.reasons[0]
        assert "raise --max-tokens" in found.reasons[-1]
        with pytest.raises(QualityError, match="could not decide") as raised:
            found.raise_unless_passed()
        assert raised.value.exit_code == 6


def test_an_interval_across_the_limit_says_how_much_text_would_tell(quantized: Quantized, report: Report) -> None:
    measured = report(quantized("int8_wo")).slices["overall"].metrics["kl_mean"]
    limit = measured.value + 0.5 * (measured.high - measured.value)
    found = report(quantized("int8_wo"), limits={"kl_mean": limit})
    assert found.decision == "undecided"
    (row,) = [row for row in found.judgements if row.decision == "undecided"]
    tokens = found.slices["overall"].tokens
    assert row.more_tokens == pytest.approx(3 * tokens, rel=0.05)
    assert f"about {row.more_tokens} more tokens would tell" in found.reasons[0]
    assert "give more with --data" in found.reasons[-1]


def test_the_report_does_not_depend_on_threads(
    kit: Any, quantized: Quantized, tiny_llama: Path, data: Path, settings: EvaluationSettings, report: Report
) -> None:
    """A process that is held to one processor, against this one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        outcome = evaluate(kit, quantized("fp8_pc_pt"), tiny_llama, data, "--output", "json", "--kl-checks", "2")
    finally:
        os.sched_setaffinity(0, before)
    assert outcome.code == 0, outcome.err
    default = EvaluationSettings.resamples
    assert outcome.json == report(quantized("fp8_pc_pt"), kl_checks=2, resamples=default).to_json()


def test_activations_that_overflow_are_found_in_their_layer(
    quantized: Quantized, tmp_path: Path, report: Report
) -> None:
    def overflow(tensors: dict[str, Any]) -> None:
        tensors["model.layers.2.mlp.down_proj.weight_scale"].fill_(torch.inf)

    folder = changed(quantized("int8_wo"), tmp_path / "overflow", overflow)
    with pytest.raises(QualityError, match="NaN or infinite after layer 2"):
        report(folder)


def test_another_tokenizer_is_refused(quantized: Quantized, tiny_llama: Path, tmp_path: Path) -> None:
    tree = json.loads((tiny_llama / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**tree, "padding": None}, indent=4))
    check_same_tokenizer(tiny_llama, tmp_path)  # the same in other bytes
    tree["model"]["merges"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(SpecError, match="the tokenizers differ in model"):
        check_same_tokenizer(tiny_llama, tmp_path)


def test_another_model_is_refused(quantized: Quantized, tmp_path: Path, report: Report) -> None:
    folder = changed(quantized("int8_wo"), tmp_path / "other", lambda tensors: None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(SpecError, match="num_hidden_layers 3 against 4"):
        report(folder)


def test_text_that_was_calibrated_on_does_not_count(quantized: Quantized, data: Path, report: Report) -> None:
    found = report(quantized("int8_wo"), calibration=(data,))
    left = len(read(str(data), "heldout"))
    assert 0 < left < 10
    assert found.about["documents_dropped"] == 24 - left
    assert found.slices["overall"].documents == left
    assert found.decision == "undecided"


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        (("--limits", "kl_men=0.1"), 3, "write 'kl_mean'"),
        (("--limits", "kl_mean"), 2, "has no value"),
        (("--max-tokens", "0"), 2, "max-tokens"),
        (("--data", "nowhere.jsonl"), 2, "nowhere.jsonl"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(
    kit: Any, quantized: Quantized, tiny_llama: Path, data: Path, option: tuple[str, ...], code: int, message: str
) -> None:
    outcome = evaluate(kit, quantized("int8_wo"), tiny_llama, data, *option)
    assert outcome.code == code
    assert message in outcome.err
