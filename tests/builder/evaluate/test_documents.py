"""Which text is evaluated on: budgets by slice, cuts, and what calibration has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.evaluate.contamination import SeenTexts
from builder.evaluate.documents import LONG, Corpus, gather
from builder.quantize.calibration.texts import Document
from trtllm_kit.errors import SpecError

PASSAGE = "The tide turns twice a day, and with it the boats that lie on the mud swing round to face the other way. "


def corpus(texts: Mapping[str, Sequence[str]], *, seen: Sequence[str] = (), **limits: int) -> Corpus:
    """A token for each character."""
    bounds = {"max_tokens": 1000, "max_length": 100, "positions": 10_000, **limits}
    rows = [Document(text=text, slice=name) for name, found in texts.items() for text in found]
    return gather(rows, lambda row: [ord(character) for character in row.text], seen=SeenTexts(seen), **bounds)


def predicted(found: Corpus, name: str) -> int:
    return sum(document.predicted for document in found.documents if document.slice == name)


def numbered(count: int, length: int, letter: str = "x") -> list[str]:
    return [f"{number:04d}" + letter * (length - 4) for number in range(count)]


def test_slices_share_the_budget_and_the_small_leave_theirs_to_the_large() -> None:
    found = corpus(
        {"natural": numbered(20, 101), "code": ["a" * 51, "b" * 51], "own": numbered(20, 101, "y")}, max_length=101
    )
    assert [predicted(found, name) for name in ("natural", "code", "own")] == [450, 100, 450]
    assert found.unused_tokens == 2000 + 100 + 2000 - 1000


@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(2, 150), min_size=1, max_size=9), min_size=1),
    budget=st.integers(4, 1500),
)
def test_the_budget_is_kept_and_used_up(sizes: dict[str, list[int]], budget: int) -> None:
    texts = {
        name: [chr(ord(name) * 100 + number) + "y" * (length - 1) for number, length in enumerate(found)]
        for name, found in sizes.items()
    }
    found = corpus(texts, max_tokens=budget)
    available = sum(min(length, 100) - 1 for lengths in sizes.values() for length in lengths)
    used = sum(document.predicted for document in found.documents)
    assert used + found.unused_tokens == available
    assert min(budget, available) - len(sizes) < used <= budget
    assert all(2 <= len(document.ids) <= 100 for document in found.documents)


def test_documents_are_cut_and_the_long_context_less_so() -> None:
    found = corpus({"natural": ["a" * 900], LONG: ["b" * 900]}, max_tokens=10_000, max_length=100)
    assert [len(document.ids) for document in found.documents] == [100, 400]
    found = corpus({"natural": ["a" * 900], LONG: ["b" * 900]}, max_tokens=10_000, max_length=100, positions=64)
    assert [len(document.ids) for document in found.documents] == [64, 64]


def test_the_order_of_a_file_does_not_choose_what_is_evaluated() -> None:
    texts = numbered(30, 60)
    assert corpus({"own": texts}, max_tokens=300) == corpus({"own": texts[::-1]}, max_tokens=300)


@pytest.mark.parametrize(
    "text",
    [
        PASSAGE * 3,
        "\n\t" + (PASSAGE * 3).upper().replace(" ", "  "),
        PASSAGE * 3 + "And a last word.",
        "Short.",
    ],
)
def test_what_was_calibrated_on_is_dropped(text: str) -> None:
    found = corpus({"own": [text, "Nothing of the kind stands anywhere else."]}, seen=[PASSAGE * 5, "short."])
    assert found.dropped == 1
    assert len(found.documents) == 1


def test_a_few_words_in_common_are_no_reason_to_drop_a_text() -> None:
    fresh = "Rye bread keeps longer than wheat bread because its crumb holds more water and dries out late. " * 3
    assert corpus({"own": [fresh + PASSAGE]}, seen=[PASSAGE]).dropped == 0


@pytest.mark.parametrize(("texts", "seen"), [([], []), (["", "  \n"], []), (["a"], []), ([PASSAGE], [PASSAGE])])
def test_no_text_is_refused(texts: list[str], seen: list[str]) -> None:
    with pytest.raises(SpecError, match="no text to evaluate on"):
        corpus({"own": texts}, seen=seen)
