"""One string names a build everywhere; it must parse back to what it was made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_kit.errors import SpecError
from trtllm_kit.identifier import BuildIdentifier, model_slug

_WORD = st.from_regex(r"[a-z0-9_]{1,12}", fullmatch=True)
_MODEL = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
_SIZE = st.integers(1, 64)


@given(model=_MODEL, precision=_WORD, sku=_WORD, tp=_SIZE, pp=_SIZE, runtime=_WORD)
def test_parse_is_the_inverse_of_format(model: str, precision: str, sku: str, tp: int, pp: int, runtime: str) -> None:
    identifier = BuildIdentifier(model=model, precision=precision, sku=sku, tp=tp, pp=pp, runtime=runtime)
    assert BuildIdentifier.parse(str(identifier)) == identifier


def test_the_documented_example() -> None:
    parsed = BuildIdentifier.parse("llama-3.1-8b-instruct-fp8-h100_sxm-tp1pp1-tensorrt")
    assert (parsed.model, parsed.precision, parsed.sku) == ("llama-3.1-8b-instruct", "fp8", "h100_sxm")


@pytest.mark.parametrize(
    "text", ["", "llama", "llama-fp8-h100_sxm-tp0pp1-tensorrt", "a-b-c-tp1-cpu", "A-b-c-tp1pp1-cpu"]
)
def test_what_is_no_identifier_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="not a build identifier"):
        BuildIdentifier.parse(text)


@pytest.mark.parametrize(
    ("source", "slug"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct@main", "llama-3.1-8b-instruct"),
        ("examples/tiny-llama/", "tiny-llama"),
        ("org/My Model (v2)", "my-model-v2"),
    ],
)
def test_slug(source: str, slug: str) -> None:
    assert model_slug(source) == slug


def test_a_source_without_a_name_is_refused() -> None:
    with pytest.raises(SpecError, match="no name"):
        model_slug("///")
