"""Calibration text as token ids: windows of one length without padding, the same for the same text and seed."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.quantize.calibration.texts import BUNDLED, Document, bundled, read
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError, SpecError
from trtllm_kit.files import sha256_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Encode = Callable[[Document], Sequence[int]]
"""Token ids of a document with the special tokens that the model expects."""


@dataclass(frozen=True)
class CalibrationSet:
    """Windows of token ids."""

    ids: npt.NDArray[np.int64]  # [samples, length]

    @property
    def digest(self) -> str:
        """Of sizes and ids, for the fingerprint."""
        return hashlib.sha256(repr(self.ids.shape).encode() + self.ids.astype("<i8").tobytes()).hexdigest()


def load(source: str, tokenizer: Path, *, samples: int, length: int, seed: int, talk: Talk) -> CalibrationSet:
    """Windows of `length` tokens from "default", a JSONL file or a dataset on the hub.

    Args:
        tokenizer: the checkpoint's folder.

    SpecError for text that cannot be used or is too little, with counts. The bundled text gives what it has.
    """
    documents = read(source, "calibration")
    random.Random(seed).shuffle(documents)
    made = windows(documents, encoder(tokenizer), length=length, limit=samples)
    if source == BUNDLED:
        talk.warn(
            f"scales are measured on the bundled text, {min(len(made), samples)} samples of {length} tokens: text like "
            "that which the model will be served gives better ones (calibration.data)"
        )
    if not made or (len(made) < samples and source != BUNDLED):
        raise SpecError(
            f"{source} holds {len(documents)} documents for calibration, which fill {len(made)} samples of {length} "
            f"tokens",
            expected=f"{samples} samples; a fifth of a file is held out for the evaluation",
            fix="give more text, or lower calibration.samples or calibration.max_seq_len",
        )
    import numpy as np

    return CalibrationSet(np.array(made, dtype=np.int64))


def source_digest(source: str) -> str:
    """What stands for the text in a fingerprint before it is read: a file's content, a dataset's name and revision."""
    if Path(source).is_file():
        return sha256_file(Path(source))
    if source == BUNDLED:
        return _bundled_digest()
    return source


@functools.cache
def _bundled_digest() -> str:
    return hashlib.sha256(repr(bundled("calibration")).encode()).hexdigest()


def load_heldout() -> dict[str, list[str]]:
    """The bundled text that is never calibrated on, by slice: "natural", "code", "long context"."""
    found: dict[str, list[str]] = {}
    for document in bundled("heldout"):
        found.setdefault(document.slice, []).append(document.text)
    return found


def encoder(folder: Path) -> Encode:
    """Encodes by the tokenizer in `folder`, chats by its template, which writes the special tokens itself."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise HostError(
            "tokenizing calibration text needs transformers, which is not installed",
            expected="transformers 4.48 or newer",
            fix="pip install 'trtllm-kit[quantize]'",
        ) from None
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def encode(document: Document) -> Sequence[int]:
        if not document.messages:
            return list(tokenizer(document.text, verbose=False)["input_ids"])
        if not tokenizer.chat_template:
            raise SpecError(
                "the calibration data holds chats, and the tokenizer has no chat template",
                expected="a tokenizer with a chat template, or texts",
                fix='write the chats as {"text": "..."}, in the form that the model will see',
            )
        try:
            text = tokenizer.apply_chat_template(list(document.messages), tokenize=False)
        except Exception as error:  # a template is a program: it may refuse a chat with any error
            raise SpecError(
                f"the chat template refuses a chat of the calibration data: {error}",
                expected="roles and contents that the template knows",
                fix="correct the chat that begins " + str(document.messages[0])[:80],
            ) from None
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    return encode


def windows(documents: Sequence[Document], encode: Encode, *, length: int, limit: int) -> list[list[int]]:
    """Up to `limit` windows. Each begins where a document does, for models treat a first token unlike any other.

    What is left of a window after a document is filled by the next ones, as in training. A long document gives further
    windows when all have given one; they begin with its first token too, where that is a special one.
    """
    made: list[list[int]] = []
    window: list[int] = []
    for piece in _pieces(documents, encode, length):
        window = [*window, *piece][:length]
        if len(window) == length:
            made.append(window)
            window = []
            if len(made) == limit:
                break
    return made


def _pieces(documents: Sequence[Document], encode: Encode, length: int) -> Iterator[Sequence[int]]:
    """Up to `length` tokens each: of every document the first ones, then of every longer one the next, and so on."""
    start = _start(encode)
    left: list[Sequence[int]] = []
    for document in documents:
        ids = encode(document)
        yield ids[:length]
        left.append(ids[length:])
    step = length - len(start)
    while left := [ids for ids in left if ids]:
        yield from ([*start, *ids[:step]] for ids in left)
        left = [ids[step:] for ids in left]


def _start(encode: Encode) -> list[int]:
    """The special token that every text begins with, if there is one."""
    empty, word = encode(Document()), encode(Document(text="a"))
    return list(empty[:1]) if empty and empty[0] == word[0] else []
