"""Which linears cost most: a damage that was done on purpose is found, and money is not spent beyond the budget."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from builder.evaluate import QualityReport, SensitivityRow, choose_exclusions
from builder.evaluate.sensitivity import with_kl

BAD = ("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj")


@pytest.fixture(scope="module")
def damaged(quantized: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One linear of a group loses half of its rows; all others stay as they were quantized."""
    folder = Path(shutil.copytree(quantized("int8_wo"), tmp_path_factory.mktemp("damaged") / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{BAD[1]}.weight"][::2] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_damaged_group_costs_most(damaged: Path, report: Callable[..., QualityReport]) -> None:
    found = report(damaged, kl_checks=4)
    worst, second = found.sensitivity[:2]
    assert worst.modules == BAD
    assert worst.kl is not None and second.kl is not None
    assert worst.kl > 10 * second.kl
    overall = found.slices["overall"].metrics["kl_mean"].value
    assert worst.kl == pytest.approx(overall, rel=0.4)  # on a sample; all others cost next to nothing
    weights, codes = 2 * 1024 * 256, 2 * (1024 * 256 + 4 * 1024)
    assert worst.extra_bytes == 2 * weights - codes


def test_the_layer_where_it_happens_stands_out(damaged: Path, report: Callable[..., QualityReport]) -> None:
    layers = report(damaged).layers
    assert [row.layer for row in layers] == [0, 1, 2, 3]
    assert max(layers, key=lambda row: row.own_error).layer == 1
    assert layers[1].stream_error > 3 * layers[0].stream_error
    groups = {group.modules: group for group in layers[1].groups}
    assert len(groups) == 4
    assert groups[BAD].weight_error > 5 * groups[("model.layers.1.mlp.down_proj",)].weight_error


def test_weight_errors_are_those_of_the_weights(
    quantized: Callable[..., Path], tiny_llama: Path, report: Callable[..., QualityReport]
) -> None:
    folder, name = quantized("int8_wo"), "model.layers.3.mlp.down_proj"
    stored = load_file(folder / "model.safetensors")
    weight = load_file(tiny_llama / "model.safetensors")[f"{name}.weight"].float()
    other = stored[f"{name}.weight"].float() * stored[f"{name}.weight_scale"][:, None]
    wanted = float((other - weight).norm() / weight.norm())
    (found,) = [group for group in report(folder).layers[3].groups if group.modules == (name,)]
    assert found.weight_error == pytest.approx(wanted, rel=1e-4)


def row(name: str, error: float, size: int) -> SensitivityRow:
    return SensitivityRow(modules=(f"{name}.a", f"{name}.b"), output_error=error, kl=None, extra_bytes=size)


def test_a_group_that_does_not_fit_is_passed_over() -> None:
    rows = [row("huge", 0.9, 1000), row("small", 0.5, 60), row("tiny", 0.4, 30), row("last", 0.3, 20)]
    assert choose_exclusions(rows, 2, 100) == ("small.a", "small.b", "tiny.a", "tiny.b")
    assert choose_exclusions(rows, 3, 100) == ("small.a", "small.b", "tiny.a", "tiny.b")
    assert choose_exclusions(rows, 1, 2000) == ("huge.a", "huge.b")
    assert choose_exclusions(rows, 0, 2000) == ()


@given(st.lists(st.integers(1, 100), max_size=8), st.integers(0, 8), st.integers(0, 200))
def test_no_choice_passes_the_budget(sizes: list[int], count: int, budget: int) -> None:
    rows = [row(str(number), 1 / (number + 1), size) for number, size in enumerate(sizes)]
    chosen = choose_exclusions(rows, count, budget)
    taken = [found for found in rows if found.modules[0] in chosen]
    assert sum(found.extra_bytes for found in taken) <= budget
    assert len(taken) <= count
    left = budget - sum(found.extra_bytes for found in taken)
    assert len(taken) == count or all(found in taken or found.extra_bytes > left for found in rows)


def test_checked_groups_are_ranked_by_what_they_cost() -> None:
    rows: list[Any] = [row("first", 0.9, 1), row("second", 0.8, 1), row("third", 0.7, 1)]
    ranked = with_kl(rows, {rows[0].modules: 0.01, rows[1].modules: 0.5})
    assert [found.modules[0] for found in ranked] == ["second.a", "first.a", "third.a"]
