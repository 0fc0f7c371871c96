"""The ids that the server makes of a text must be the ids that Hugging Face makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.client.errors import RequestError
from serving.client.request import Endpoint
from serving.validate.corpus import CORPUS, corpus_texts
from serving.validate.hugging_face import LOCAL, quiet_transformers
from serving.validate.results import CheckResult
from serving.validate.server_facts import encode_on_server

_MAX_SPECIAL = 8
_MAX_CHARS = 20_000
_SHOWN = 5
_CHAT = [
    {"role": "user", "content": "What is 2 + 2? 🤔"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3 + 3?"},
]


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Where two encodings of one text part."""

    text: str  # name of the row
    at: int  # index of the first id that differs
    server: list[int]  # a few ids from there on
    hugging_face: list[int]


def tokenizer_parity(
    endpoint: Endpoint,
    tokenizer_dir: Path,
    *,
    add_special_tokens: bool = True,
    corpus: Sequence[tuple[str, str]] = CORPUS,
) -> CheckResult:
    """Compare over the whole corpus of (name, text). `add_special_tokens` is what the repository was rendered with.

    Skipped, with the reason, where transformers is absent or the layout has no preprocessing model.
    """
    if not endpoint.transport.startswith(("engine", "tokens")):
        return _skipped("this layout tokenizes inside the model, which shows no ids")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return _skipped("transformers is not installed: pip install 'trtllm-kit[quantize]'")
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_dir), **LOCAL)
        special = tuple(tokenizer.all_special_tokens[:_MAX_SPECIAL])
        rows = corpus_texts(corpus, special, _rendered_chat(tokenizer), _MAX_CHARS)
        expected = [tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"] for _, text in rows]
    try:
        served = encode_on_server(endpoint, [text for _, text in rows])
    except RequestError as error:
        return CheckResult(name="tokenizer_parity", status="fail", reasons=(error.happened,))
    mismatches = [
        _mismatch(name, ids, wanted)
        for (name, _), ids, wanted in zip(rows, served, expected, strict=True)
        if ids != wanted
    ]
    data = {"texts": len(rows), "mismatches": [asdict(mismatch) for mismatch in mismatches]}
    reasons = tuple(
        f"'{m.text}' differs from id {m.at} on: the server has {m.server}, Hugging Face {m.hugging_face}"
        for m in mismatches[:_SHOWN]
    )
    return CheckResult(name="tokenizer_parity", status="fail" if mismatches else "pass", reasons=reasons, data=data)


def _rendered_chat(tokenizer: Any) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    return str(tokenizer.apply_chat_template(_CHAT, tokenize=False, add_generation_prompt=True))


def _mismatch(name: str, server: list[int], expected: list[int]) -> Mismatch:
    pairs = enumerate(zip(server, expected, strict=False))
    at = next((index for index, (one, other) in pairs if one != other), min(len(server), len(expected)))
    return Mismatch(text=name, at=at, server=server[at : at + 8], hugging_face=expected[at : at + 8])


def _skipped(reason: str) -> CheckResult:
    return CheckResult(name="tokenizer_parity", status="skipped", reasons=(reason,))
