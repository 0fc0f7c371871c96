"""Text deltas of the BLS model, for any text and any tokenizer kind: joined, they are the whole text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS = ("byte_level", "byte_fallback")
LETTERS = st.characters(codec="utf-8", exclude_characters="▁")


@pytest.fixture(scope="module")
def pieces(load_template, tokenizers) -> Any:
    """Ids in, text of each step out, the flushed rest last."""
    decoding = load_template("engine/tensorrt_llm_bls/1/decoding.py")

    def cut(kind: str, ids: list[int], width: int = 1) -> list[str]:
        decoder = decoding.DeltaDecoder(tokenizers[kind].decode)
        steps = [decoder.take(ids[start : start + width]) for start in range(0, len(ids), width)]
        return [*steps, decoder.flush()]

    return cut


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(KINDS), text=st.text(LETTERS, max_size=40), width=st.integers(1, 4))
def test_deltas_of_any_text_rejoin_to_the_whole(pieces, tokenizers, kind: str, text: str, width: int) -> None:
    ids = tokenizers[kind].encode(text, add_special_tokens=False).ids
    assert "".join(pieces(kind, ids, width)) == tokenizers[kind].decode(ids)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(3, 380), max_size=60))
def test_deltas_of_any_tokens_rejoin_though_they_are_no_utf8(pieces, tokenizers, ids: list[int]) -> None:
    assert "".join(pieces("byte_level", ids)) == tokenizers["byte_level"].decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_no_delta_holds_a_broken_character(pieces, tokenizers, kind: str) -> None:
    text = "a 👩‍👩‍👧 b 東京 🦙🦙🦙 c"
    steps = pieces(kind, tokenizers[kind].encode(text, add_special_tokens=False).ids)
    assert not any("\ufffd" in step for step in steps)
    assert "".join(steps) == text
    assert steps[0] == "a"  # what is whole is not held back


def test_endless_broken_bytes_are_given_out_before_the_end(pieces, tokenizers) -> None:
    byte = tokenizers["byte_level"].token_to_id("ð")  # 0xF0, which begins a character of four bytes
    steps = pieces("byte_level", [byte] * 40)
    assert "".join(steps) == "\ufffd" * 40
    assert "".join(steps[:20])
