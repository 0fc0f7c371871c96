"""Axes, include and exclude against the definition: a filtered product and what is added to it."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.nightly.matrix import SHORT, settings_of, tree_of
from serving.nightly.spec import Nightly, NightlySpec
from trtllm_kit.errors import SpecError

AXES = ("model", "precision", "sku", "runtime", "build.max_batch_size")
axis_values = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True)
matrices = st.dictionaries(st.sampled_from(AXES), axis_values, min_size=1, max_size=4)
rows = st.dictionaries(st.sampled_from(AXES), st.sampled_from(["a", "b", "d"]), min_size=1, max_size=3)


def nightly(**tree: Any) -> Nightly:
    return Nightly(spec=NightlySpec.model_validate(tree), path=Path("/somewhere/nightly.yaml"))


def long(row: dict[str, Any]) -> dict[str, Any]:
    return {SHORT.get(key, key): value for key, value in row.items()}


def as_set(found: list[dict[str, Any]]) -> set[frozenset[tuple[str, Any]]]:
    return {frozenset(row.items()) for row in found}


@given(matrices, st.lists(rows, max_size=2), st.lists(rows, max_size=3))
def test_cells_are_the_product_less_what_is_excluded_and_what_is_included(
    axes: dict[str, list[str]], included: list[dict[str, str]], excluded: list[dict[str, str]]
) -> None:
    found = settings_of(nightly(matrix=axes, include=included, exclude=excluded))
    every = [long(dict(zip(axes, values, strict=True))) for values in product(*axes.values())]
    kept = [row for row in every if not any(long(part).items() <= row.items() for part in excluded)]
    assert as_set(found) == as_set([*kept, *map(long, included)])
    assert len(found) == len(as_set(found))


@given(matrices)
def test_the_order_of_axes_orders_cells_and_changes_none(axes: dict[str, list[str]]) -> None:
    reverse = dict(reversed(axes.items()))
    assert as_set(settings_of(nightly(matrix=axes))) == as_set(settings_of(nightly(matrix=reverse)))


@given(matrices, rows)
def test_excluding_twice_is_excluding_once(axes: dict[str, list[str]], part: dict[str, str]) -> None:
    assert settings_of(nightly(matrix=axes, exclude=[part])) == settings_of(nightly(matrix=axes, exclude=[part, part]))


def test_a_list_excludes_any_of_its_values() -> None:
    found = settings_of(nightly(matrix={"sku": ["a", "b", "c"]}, exclude=[{"sku": ["a", "c"]}]))
    assert found == [{"target.sku": "b"}]


def test_no_axis_is_one_cell_and_only_include_is_what_it_says() -> None:
    assert settings_of(nightly()) == [{}]
    assert settings_of(nightly(include=[{"precision": "fp8"}])) == [{"precision": "fp8"}]


def test_settings_go_over_the_base_and_leave_it_as_it_was() -> None:
    base = {"model": "m", "build": {"max_seq_len": 64}}
    tree = tree_of(base, {"build.max_batch_size": 8, "precision": "fp8"}, nightly())
    assert tree == {"model": "m", "precision": "fp8", "build": {"max_seq_len": 64, "max_batch_size": 8}}
    assert base == {"model": "m", "build": {"max_seq_len": 64}}


@pytest.mark.parametrize(
    ("tree", "where", "near"),
    [
        ({"matrix": {"precison": ["a"]}}, "matrix", "precision"),
        ({"include": [{"skus": "a"}]}, "include.0", "sku"),
        ({"exclude": ["*", {"build.max_batchsize": 1}]}, "exclude.1", "build.max_batch_size"),
    ],
)
def test_an_axis_that_is_no_key_is_refused_with_the_nearest(tree: dict[str, Any], where: str, near: str) -> None:
    with pytest.raises(SpecError) as refused:
        settings_of(nightly(**tree))
    assert refused.value.happened.startswith(f"{where}: ")
    assert refused.value.happened.endswith(f"did you mean '{near}'?")
