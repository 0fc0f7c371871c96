"""The licence, as cards on the hub state it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.attest.model_card import licence_of
from trtllm_kit.errors import SpecError

CARDS = {
    "---\nlicense: apache-2.0\ntags: [a]\n---\n# A model": "apache-2.0",
    "---\nlicense: other\nlicense_name: llama3.1\n---\n": "llama3.1",
    "---\nlicense: other\n---\n": "other",
}


@pytest.mark.parametrize("text", CARDS)
def test_a_stated_licence_is_found(tmp_path: Path, text: str) -> None:
    card = tmp_path / "README.md"
    card.write_text(text)
    assert licence_of(card) == CARDS[text]


@pytest.mark.parametrize(
    "text", ["# A model", "---\nlanguage: en\n---\n", "---\n{\n---\n", "---\nlicense: [a]\n---", "\xff"]
)
def test_a_card_without_one_is_refused(tmp_path: Path, text: str) -> None:
    card = tmp_path / "README.md"
    card.write_text(text, encoding="latin-1")
    with pytest.raises(SpecError, match="the model card"):
        licence_of(card)
