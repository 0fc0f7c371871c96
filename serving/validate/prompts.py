"""Synthetic prompts of a given length in tokens: the same seed gives the same bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

_TEXT = """
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room
mother area money story fact month lot right study book eye job word business issue side kind head house
service friend father power hour game line end member law car city community name president team minute idea
body information back parent face level office door health person art war history party result change morning
reason research girl guy moment air teacher force education a of in to is on by it or be at as an we us if my
do no he up so me
"""
_WORDS = tuple(_TEXT.split())
_TRIES = 40


def synthetic_prompts(count: int, input_len: int, *, seed: int, tokenizer_dir: Path | None) -> list[str]:
    """`count` different prompts of `input_len` tokens each, special tokens included.

    Without a tokenizer one word stands for one token; what the server counted is reported either way.
    """
    measure = _measure(tokenizer_dir)
    draw = random.Random(f"{seed}/{input_len}")
    return [_prompt(draw, input_len, measure) for _ in range(count)]


def _measure(tokenizer_dir: Path | None) -> Callable[[str], int]:
    file = None if tokenizer_dir is None else tokenizer_dir / "tokenizer.json"
    if file is None or not file.is_file():
        return lambda text: len(text.split())
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text).ids)


def _prompt(draw: random.Random, input_len: int, measure: Callable[[str], int]) -> str:
    words = [draw.choice(_WORDS)]
    tries = 0
    while (missing := input_len - measure(" ".join(words))) > 0 and tries < _TRIES:
        # Half of what is missing at a time: a word is at least one token with most tokenizers, often two.
        added = [draw.choice(_WORDS) for _ in range(max(1, missing // 2))]
        if measure(" ".join(words + added)) <= input_len:
            words += added
        else:
            tries += 1
            words += _fitting(draw, words, input_len, measure)
    return " ".join(words)


def _fitting(draw: random.Random, words: list[str], input_len: int, measure: Callable[[str], int]) -> list[str]:
    word = draw.choice(_WORDS)
    return [word] if measure(" ".join([*words, word])) <= input_len else []
