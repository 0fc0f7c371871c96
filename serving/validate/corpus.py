"""Texts on which tokenizers drift apart: each row is a class of difference that has been seen in the wild."""

from __future__ import annotations

from collections.abc import Sequence

CORPUS: tuple[tuple[str, str], ...] = (
    ("one word", "Hello"),
    ("sentence", "The quick brown fox jumps over the lazy dog."),
    ("leading space", " leading"),
    ("trailing space", "trailing "),
    ("only spaces", "   "),
    ("inner spaces", "a  b   c    d"),
    ("newlines", "line one\n\n\nline two\r\nline three\ttab"),
    ("numbers", "3.14159 1,000,000 0x1F 2026-11-20 1/2 1e-9"),
    ("contractions", "I'm don't we'll they'd CAN'T"),
    ("code", 'def f(x: int) -> str:\n    return f"{x!r:>{8}}"  # 100%\n'),
    ("markup", '<div class="a">&amp;</div>\n```json\n{"k": [1, null]}\n```'),
    ("emoji", "👍🏽 👩‍👩‍👧‍👦 🇩🇪 🏴‍☠️ 😀"),
    ("combining", "e\u0301 \u00e9 n\u0303 \u0041\u030a\u0301"),
    ("right to left", "שלום עולם مرحبا بالعالم \u200f123"),
    ("cjk", "你好，世界。こんにちは 안녕하세요"),
    ("rare scripts", "ᚠᛇᚻ ไทย देवनागरी 𝔘𝔫𝔦𝔠𝔬𝔡𝔢"),
    ("controls", "zero\u200bwidth no\u00a0break soft\u00adhyphen \ufeffbom"),
    ("repeats", "a" * 300),
    ("punctuation", "¿¡!?…—–“”‘’«»±×÷≠≤≥∞"),
    ("mixed", "naïve café — 50 € für 3½ Stück (≈17 €/Stück)"),
)
LONG_TEXT_WORDS = 400


def corpus_texts(
    corpus: Sequence[tuple[str, str]], special_tokens: tuple[str, ...], chat: str | None, max_chars: int
) -> list[tuple[str, str]]:
    """(name, text) of `corpus`, plus special tokens inside text, a rendered chat, and a long text of `max_chars`."""
    rows = list(corpus)
    rows += [(f"special token {token}", f"before {token} after{token}") for token in special_tokens]
    if chat is not None:
        rows.append(("chat template", chat))
    rows.append(("long text", _long_text(corpus)[:max_chars]))
    return rows


def _long_text(corpus: Sequence[tuple[str, str]]) -> str:
    sentences = [text for _, text in corpus if text.strip()]
    return " ".join(f"{at}: {sentences[at % len(sentences)]}" for at in range(LONG_TEXT_WORDS))
