"""Text by its source, cut into windows."""

from __future__ import annotations

import json
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from builder.quantize.calibration import samples, texts
from builder.quantize.calibration.texts import Document
from trtllm_kit.console import Silent
from trtllm_kit.errors import HostError, SpecError

BOS = 1


def encode(document: Document) -> list[int]:
    """A token for each character, after the one that every text begins with."""
    return [BOS, *(ord(letter) for letter in document.text)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(source: str | Path, tokenizer: Path, **options: Any) -> samples.CalibrationSet:
    return samples.load(str(source), tokenizer, **{"samples": 3, "length": 16, "seed": 0, "talk": Silent(), **options})


@given(st.lists(st.text("abc", min_size=1, max_size=40), min_size=1), st.integers(2, 12), st.integers(1, 9))
def test_windows_are_full_and_begin_as_documents_do(found: list[str], length: int, limit: int) -> None:
    made = samples.windows([Document(text=text) for text in found], encode, length=length, limit=limit)
    assert len(made) <= limit
    assert all(len(window) == length and window[0] == BOS for window in made)
    tokens = sum(len(text) for text in found)
    assert len(made) >= min(limit, tokens // (2 * length))  # what is cut off is less than what is kept


def test_a_long_document_fills_several_windows_and_short_ones_share_one() -> None:
    found = [Document(text=text) for text in ("abcdefgh", "x", "uvwxy")]
    made = samples.windows(found, encode, length=4, limit=9)
    assert ["".join(map(chr, window)) for window in made] == ["\1abc", "\1x\1u", "\1def", "\1xy\1"]


def test_the_bundled_text_is_enough_varied_and_parted(tiny_llama: Path) -> None:
    found = load("default", tiny_llama, samples=128, length=512)
    assert found.ids.shape == (128, 512)
    parts = {part: texts.bundled(part) for part in ("calibration", "heldout")}
    seen = {document.text for document in parts["calibration"]}
    assert not any(document.text in seen for document in parts["heldout"])
    assert all(document for found in parts.values() for document in found)
    assert set(samples.load_heldout()) == {"natural", "code", "long context"}
    assert min(len(text) for text in samples.load_heldout()["long context"]) > 8000


def test_the_default_warns_that_own_data_is_better(tiny_llama: Path) -> None:
    warnings: list[str] = []

    class Listener(Silent):
        def warn(self, text: str) -> None:
            warnings.append(text)

    load("default", tiny_llama, talk=Listener())
    assert "text like that which the model will be served gives better ones" in warnings[0]


def test_the_same_seed_gives_the_same_digest_and_another_another(tiny_llama: Path) -> None:
    one, again, other = (load("default", tiny_llama, seed=seed) for seed in (1, 1, 2))
    assert one.digest == again.digest != other.digest
    assert load("default", tiny_llama, seed=1, length=17).digest != one.digest


def test_texts_are_encoded_as_transformers_does(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"text": f"Question {number}: what is {number} + {number}? " * 3} for number in range(20)]
    found = load(write(tmp_path / "own.jsonl", rows), tiny_llama)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    starts = {tuple(tokenizer(row["text"])["input_ids"][:16]) for row in rows}
    assert all(tuple(window) in starts for window in found.ids.tolist())


def test_chats_go_through_the_template_which_writes_the_first_token(tiny_llama: Path, tmp_path: Path) -> None:
    chats = [
        [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": "A number. " * 9}]
        for number in range(20)
    ]
    found = load(write(tmp_path / "own.jsonl", [{"messages": chat} for chat in chats]), tiny_llama)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    starts = {tuple(tokenizer.apply_chat_template(chat, return_dict=False)[:16]) for chat in chats}
    assert all(tuple(window) in starts for window in found.ids.tolist())
    assert (found.ids[:, 1] != tokenizer.bos_token_id).all()


def test_a_chat_that_the_template_refuses_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "tool", "content": "42"}]}] * 9
    with pytest.raises(SpecError, match="Roles are system, user and assistant, not tool"):
        load(write(tmp_path / "own.jsonl", rows), tiny_llama)


def test_held_out_documents_do_not_depend_on_their_order(tmp_path: Path) -> None:
    rows = [{"text": f"document {number}"} for number in range(1000)]
    ways = [write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", random.Random(1).sample(rows, 1000))]
    parts = [
        {part: {row.text for row in texts.read(str(path), part)} for part in ("calibration", "heldout")}
        for path in ways
    ]
    assert parts[0] == parts[1]
    assert not parts[0]["calibration"] & parts[0]["heldout"]
    assert 150 < len(parts[0]["heldout"]) < 250
    assert len(parts[0]["calibration"]) + len(parts[0]["heldout"]) == 1000


@pytest.mark.parametrize("rows", [[], [{"text": ""}, {"text": "  "}], [{"text": "a few words"}]])
def test_too_little_text_is_refused_with_counts(rows: list[Any], tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"holds \d documents for calibration, which fill 0 samples of 16 tokens"
    ) as refused:
        load(write(tmp_path / "own.jsonl", rows), tiny_llama)
    assert refused.value.expected.startswith("3 samples")


@pytest.mark.parametrize(
    ("line", "what"),
    [("{", "is no JSON"), ("[1]", "has neither a text nor messages"), ('{"messages": ["hi"]}', "has neither")],
)
def test_a_broken_line_is_named(line: str, what: str, tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(SpecError, match=f"own.jsonl line 3 {what}"):
        load(path, tiny_llama)


def test_a_missing_file_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load(tmp_path / "none.jsonl", tiny_llama)
    with pytest.raises(SpecError, match="neither a file nor a dataset"):
        load("no such thing", tiny_llama)


def test_a_dataset_needs_its_package(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(HostError, match="the dataset org/name needs the package `datasets`"):
        load("org/name@main:train#text", tiny_llama)


def test_a_dataset_is_asked_for_its_revision_split_and_column(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Rows(list):  # type: ignore[type-arg]
        def take(self, count: int) -> Rows:
            return Rows(self[:count])

    def load_dataset(*names: Any, **options: Any) -> Rows:
        asked.append((*names, options))
        return Rows({"story": f"A story of {number} pages. " * 4, "id": number} for number in range(30))

    package = types.ModuleType("datasets")
    package.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", package)
    assert load("org/name@v1:valid#story", tiny_llama).ids.shape == (3, 16)
    assert asked == [("org/name", {"revision": "v1", "split": "valid", "streaming": True})]
    with pytest.raises(SpecError, match="org/name has the columns story, id"):
        load("org/name", tiny_llama)


def test_ids_are_of_the_models_vocabulary(tiny_llama: Path) -> None:
    config = json.loads((tiny_llama / "config.json").read_text())
    ids = load("default", tiny_llama, samples=20, length=64).ids
    assert ids.dtype == np.int64
    assert 0 <= ids.min() <= ids.max() < config["vocab_size"]
