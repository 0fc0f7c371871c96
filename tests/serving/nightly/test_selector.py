"""Globs with braces: a set algebra."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.nightly.selector import expand_braces, matches, nearest

plain = st.text("abc-_.", max_size=4)
choices = st.lists(plain, min_size=2, max_size=3)


@given(st.lists(st.tuples(plain, choices), max_size=3), plain)
def test_braces_are_the_product_of_their_choices(parts: list[tuple[str, list[str]]], end: str) -> None:
    pattern = "".join(text + "{" + ",".join(words) + "}" for text, words in parts) + end
    wanted = [
        "".join(text + word for (text, _), word in zip(parts, chosen, strict=True)) + end
        for chosen in product(*(words for _, words in parts))
    ]
    assert expand_braces(pattern) == wanted


@given(plain, choices, choices)
def test_braces_nest(text: str, outer: list[str], inner: list[str]) -> None:
    nested = "{" + ",".join([*outer, "x{" + ",".join(inner) + "}"]) + "}" + text
    assert expand_braces(nested) == [word + text for word in [*outer, *("x" + word for word in inner)]]


@pytest.mark.parametrize("pattern", ["{", "}", "a{b}c", "{}", "a{b", "}{", "{a,b"])
def test_a_brace_without_its_other_half_or_a_comma_is_a_plain_sign(pattern: str) -> None:
    assert expand_braces(pattern) == [pattern]


def test_a_glob_is_for_the_whole_identifier() -> None:
    name = "llama-3.1-8b-fp8-h100_sxm-tp1pp1-tensorrt"
    assert matches(name, "*-h100_sxm-*")
    assert matches(name, "llama-*-{fp8,nvfp4}-*")
    assert not matches(name, "h100_sxm")
    assert not matches(name, "*-{bf16,nvfp4}-*")
    assert nearest("*-h100-*", [name, "tiny-bf16-cpu-tp1pp1-cpu"]) == name
