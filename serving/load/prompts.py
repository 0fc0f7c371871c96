"""Synthetic text of an exact number of tokens, made fast enough to be made while the load runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from trtllm_kit.errors import UsageError

_TEXT = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room
mother area money story fact month lot right study book eye job word business issue side kind head house
service friend father power hour game line end member law car city community name president team minute idea
body information back parent face level office door health person art war history party result change morning
reason research girl guy moment air teacher force education a of in to is on by it or be at as an we us if my
do no he up so me
"""
_RUN = 8


class TextSource:
    """Texts of a given length: words that are one token each wherever they stand, where there is a tokenizer."""

    def __init__(self, tokenizer_dir: Path | None) -> None:
        words = _TEXT.split()
        self.special = 0  # tokens that the tokenizer puts around every text
        self._words: Sequence[str] = words
        if tokenizer_dir is not None:
            measure = measure_of(tokenizer_dir)
            self.special = measure("")
            first = [word for word in words if measure(word) == self.special + 1]
            # In a run of one word each further one must be one more token, or lengths would depend on neighbours.
            self._words = [word for word in first if measure(" ".join([word] * _RUN)) == self.special + _RUN]
            if not self._words:
                raise UsageError(
                    f"no common English word is a single token of {tokenizer_dir}",
                    expected="a tokenizer that keeps words together",
                    fix="give prompts as JSONL",
                )

    def text(self, tokens: int, source: random.Random) -> str:
        """A text of `tokens` tokens, special ones not counted. A shorter one from an equal source is its beginning."""
        return " ".join(source.choices(self._words, k=tokens))


def measure_of(tokenizer_dir: Path) -> Callable[[str], int]:
    """Counts a text's tokens, special ones included; UsageError when the folder has no tokenizer.json."""
    file = tokenizer_dir / "tokenizer.json"
    if not file.is_file():
        raise UsageError(f"no tokenizer.json in {tokenizer_dir}", expected="a folder of a fast tokenizer")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text).ids)
