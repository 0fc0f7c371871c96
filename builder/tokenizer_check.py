"""Whether a tokenizer fits the model beside it: an id past the embedding would read foreign memory at run time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from builder.model_config import ModelConfig
from trtllm_kit.errors import SpecError
from trtllm_kit.files import read_json

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def check_tokenizer(folder: Path, config: ModelConfig) -> None:
    """Refuse a missing, broken or too large tokenizer and special ids outside the vocabulary. Fewer tokens are fine."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise SpecError(
            f"{folder} has no tokenizer.json",
            expected="the fast tokenizer's one file, which every runtime reads",
            fix=f"make it: python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{folder}')"
            f".save_pretrained('{folder}')\"",
        )
    top, content = _largest_id(path, read_json(path, "the tokenizer"))
    if top >= config.vocab_size:
        raise SpecError(
            f"the tokenizer does not fit the model: its token {content!r} has the id {top}, "
            f"but the embedding has {config.vocab_size} rows",
            expected=f"ids below vocab_size {config.vocab_size}",
            fix="use the tokenizer that the model was trained with, or resize the model's embeddings",
        )
    _check_special_ids("config.json", config.raw, config.vocab_size)
    if (folder / "generation_config.json").is_file():
        generation = read_json(folder / "generation_config.json", "the generation config")
        _check_special_ids("generation_config.json", generation, config.vocab_size)
    if (folder / "tokenizer_config.json").is_file():
        read_json(folder / "tokenizer_config.json", "the tokenizer's config")


def _largest_id(path: Path, tree: Any) -> tuple[int, str]:
    """The largest id of `tokenizer.json` with its token: from the model's vocabulary and from the added tokens."""
    try:
        ids = [*_vocabulary(tree["model"]["vocab"]), *_added(tree.get("added_tokens") or [])]
        return max(ids)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        raise SpecError(
            f"{path} holds no vocabulary",
            expected="the `tokenizers` library's format, with model.vocab",
            fix="make it anew with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        ) from None


def _vocabulary(vocab: Any) -> Iterator[tuple[int, str]]:
    """BPE, WordPiece and WordLevel map tokens to ids; Unigram lists [token, score] in the order of ids."""
    if isinstance(vocab, dict):
        token = max(vocab, key=vocab.__getitem__)
        yield int(vocab[token]), token
    else:
        yield len(vocab) - 1, str(vocab[-1][0])


def _added(tokens: Any) -> Iterator[tuple[int, str]]:
    for token in tokens:
        yield int(token["id"]), str(token["content"])


def _check_special_ids(file: str, tree: Any, vocab_size: int) -> None:
    for key in _SPECIAL_IDS if isinstance(tree, Mapping) else ():
        value = tree.get(key)
        for token_id in value if isinstance(value, list) else [value]:
            unused = key == "pad_token_id" and token_id == -1  # Llama 2's way to say that there is none
            if token_id is None or unused:
                continue
            if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
                raise SpecError(
                    f"{file}: {key} {token_id!r} is outside the vocabulary",
                    expected=f"an id from 0 to {vocab_size - 1}",
                    fix="check that config, tokenizer and weights belong together",
                )
