"""Damage is found, and what is no damage is not: checkpoints on held-out text, answers counted in pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from builder.digests import DigestCache
from builder.fetch import fetch
from builder.quantize import quantize
from builder.quantize.recipe import Recipe
from serving.nightly.ab import accuracy, perplexity
from serving.nightly.ab.accuracy import Context, paired_interval
from serving.nightly.ab.contest import decide
from serving.nightly.ab.rule import Rule
from serving.nightly.record import Figure
from trtllm_kit.console import Silent
from trtllm_kit.errors import QualityError

RULE = Rule(text_tokens=4096)
LAYER, LINEAR = "model.layers.2.", "model.layers.1.mlp.gate_proj."

Copy = Callable[..., Path]


@pytest.fixture(scope="module")
def sound(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in int8."""
    out = tmp_path_factory.mktemp("int8_wo")
    base = fetch(str(tiny_llama), trust_remote_code=False, digests=DigestCache(out / "digests"), talk=Silent())
    quantize(base, Recipe(precision="int8_wo"), layout="hf", tp_size=1, pp_size=1, out=out, talk=Silent())
    return out


@pytest.fixture
def copy_of(sound: Path, tmp_path: Path) -> Copy:
    """`copy_of(prefix, factor)`: with the scales of what begins so multiplied."""

    def make(prefix: str, factor: float) -> Path:
        folder = tmp_path / "copy"
        folder.mkdir()
        for file in sound.glob("*.json"):
            (folder / file.name).write_bytes(file.read_bytes())
        tensors = load_file(sound / "model.safetensors")
        hit = [name for name in tensors if name.startswith(prefix) and name.endswith("weight_scale")]
        assert hit
        changed = {name: factor * value if name in hit else value for name, value in tensors.items()}
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def compared(candidate: Path, incumbent: Path, tokenizer_dir: Path, work: Path, limit: float | None) -> list[Figure]:
    threads = torch.get_num_threads()
    figures = perplexity.judge(
        candidate,
        incumbent,
        divergence_limit=limit,
        tokenizer_dir=tokenizer_dir,
        rule=RULE,
        work=work / "states",
        talk=Silent(),
    )
    assert torch.get_num_threads() == threads and not (work / "states").exists()
    return list(figures)


def test_an_identical_checkpoint_differs_by_nothing(
    copy_of: Copy, sound: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    ratio, divergence = compared(copy_of(LAYER, 1.0), sound, tiny_llama, tmp_path, 0.001)
    assert (ratio.change, ratio.low, ratio.high, ratio.status) == (0, 0, 0, "good")
    assert abs(divergence.candidate) < 1e-6 and divergence.status == "good"


def test_a_layer_with_its_scales_doubled_loses_too_much(
    copy_of: Copy, sound: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    (ratio,) = compared(copy_of(LAYER, 2.0), sound, tiny_llama, tmp_path, None)
    assert ratio.change is not None and ratio.change > 1 and ratio.status == "worse"


def test_a_linear_that_costs_little_loss_is_found_by_what_it_says(
    copy_of: Copy, sound: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    """Of one model in one precision, likeness may be asked for; of two revisions it may not."""
    damaged = copy_of(LINEAR, 2.0)
    ratio, divergence = compared(damaged, sound, tiny_llama, tmp_path, perplexity.divergence_limit(BUILD, BUILD))
    assert ratio.status != "worse" and divergence.status == "worse"
    assert decide([ratio]) != "keep" and decide([ratio, divergence]) == "keep"


def test_numbers_that_are_none_are_an_error(copy_of: Copy, sound: Path, tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(QualityError, match="NaN"):
        compared(copy_of(LAYER, float("nan")), sound, tiny_llama, tmp_path, None)


BUILD = {
    "precision": "int8_wo",
    "model": {"digest": "a"},
    "quality": {"overall": {"metrics": {"kl_mean": {"value": 1.2e-4}}}},
}


@pytest.mark.parametrize(
    ("other", "limit"),
    [
        ({}, 4 * 1.2e-4 + 1e-3),
        ({"quality": None}, 1e-3),
        ({"precision": "fp8"}, None),
        ({"model": {"digest": "b"}}, None),
    ],
)
def test_likeness_is_asked_of_one_model_in_one_precision(other: dict[str, Any], limit: float | None) -> None:
    assert perplexity.divergence_limit(BUILD, {**BUILD, **other}) == pytest.approx(limit)


def test_contexts_come_from_held_out_text_and_are_the_same_for_the_same_seed(tiny_llama: Path) -> None:
    found = accuracy.contexts(tiny_llama, 200, 1)
    assert len(found) == 200 and len(set(found)) > 190
    assert found == accuracy.contexts(tiny_llama, 200, 1) != accuracy.contexts(tiny_llama, 200, 2)
    assert all(context.following == context.following.strip() != "" for context in found)


def judged(lost: int, won: int, same: int, rule: Rule = RULE) -> Figure:
    """Of `same` contexts both sides get the half right."""
    asked = [Context(prompt="p", following="yes")] * (lost + won + same)
    both = ["yes"] * (same // 2) + ["no"] * (same - same // 2)
    figures = accuracy.judge(asked, ["no"] * lost + ["yes"] * won + both, ["yes"] * lost + ["no"] * won + both, rule)
    assert [figure.status for figure in figures[1:]] == ["shown"]
    return figures[0]


@pytest.mark.parametrize(
    ("lost", "won", "status"), [(0, 0, "good"), (20, 20, "good"), (40, 15, "open"), (90, 10, "worse"), (0, 300, "good")]
)
def test_only_the_contexts_on_which_they_part_decide(lost: int, won: int, status: str) -> None:
    figure = judged(lost, won, 1000 - lost - won)
    assert figure.status == status
    assert figure.candidate - figure.incumbent == pytest.approx((won - lost) / 1000)  # type: ignore[operator]


@given(st.integers(0, 300), st.integers(0, 300), st.integers(600, 5000))
def test_the_paired_interval_holds_what_was_seen_and_turns_with_the_sides(lost: int, won: int, count: int) -> None:
    low, high = paired_interval(lost, won, count, 0.95)
    assert low < (won - lost) / count < high or lost == won
    assert paired_interval(won, lost, count, 0.95) == pytest.approx((-high, -low))
    wider = paired_interval(lost, won, count, 0.999)
    assert wider[0] < low and high < wider[1]


def test_the_paired_interval_of_a_table_worked_out_by_hand() -> None:
    """lost 9, won 1 of 98: p = .1 and .02, difference -.08, error sqrt((.12 - .0064) / 100)."""
    low, high = paired_interval(9, 1, 98, 0.95)
    assert (low, high) == pytest.approx((-0.08 - 1.959964 * 0.0337046, -0.08 + 1.959964 * 0.0337046), abs=1e-5)
