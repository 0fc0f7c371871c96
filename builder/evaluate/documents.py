"""The text that quality is measured on: held out from calibration, in slices, within a budget of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from builder.evaluate.contamination import SeenTexts
from builder.quantize.calibration.texts import Document as Text
from trtllm_kit.errors import SpecError

LONG = "long context"
_LONG_TIMES = 4  # what the model sees at once in the long context slice, by what it sees in the others


@dataclass(frozen=True, kw_only=True)
class Document:
    """The unit of the bootstrap: what is drawn again as a whole."""

    slice: str
    ids: tuple[int, ...]  # at least two; each but the first is predicted from those before it

    @property
    def predicted(self) -> int:
        return len(self.ids) - 1


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What is evaluated on, and what is left for those who ask for more."""

    documents: tuple[Document, ...]
    unused_tokens: int  # beyond the budget
    dropped: int  # documents that were calibrated on


def gather(
    texts: Iterable[Text],
    encode: Callable[[Text], Sequence[int]],
    *,
    seen: SeenTexts,
    max_tokens: int,
    max_length: int,
    positions: int,
) -> Corpus:
    """Documents of every slice, an even share of the budget each; what one slice cannot use, the others get.

    Args:
        encode: token ids of a text, with the special tokens that the model expects.
        max_tokens: predicted tokens in all.
        max_length: tokens of a document, but for the long context slice: more is cut off.
        positions: that the model has.

    SpecError when nothing is left to evaluate on.
    """
    unique = {content_of(text): text for text in texts if text}
    fresh = {content: text for content, text in unique.items() if content not in seen}
    encoded: dict[str, list[tuple[int, ...]]] = {text.slice: [] for text in fresh.values()}
    for content in sorted(fresh, key=_place):
        name = fresh[content].slice
        ids = tuple(encode(fresh[content]))[: _length(name, max_length, positions)]
        encoded[name] += [ids] if len(ids) > 1 else []
    dropped = len(unique) - len(fresh)
    available = {name: sum(len(ids) - 1 for ids in found) for name, found in encoded.items() if found}
    if not available:
        raise SpecError(
            "there is no text to evaluate on" + (f": all {dropped} documents were calibrated on" if dropped else ""),
            expected="documents of at least two tokens that calibration has not seen",
            fix="give other text with --data",
        )
    shares = _shares(available, max_tokens)
    documents = tuple(row for name, budget in shares.items() for row in _fill(name, encoded[name], budget))
    used = sum(document.predicted for document in documents)
    return Corpus(documents=documents, unused_tokens=sum(available.values()) - used, dropped=dropped)


def content_of(text: Text) -> str:
    """What makes it the same text as another."""
    return text.text or "\n".join(str(turn.get("content", "")) for turn in text.messages)


def _place(text: str) -> str:
    """An order that has nothing to do with the texts: the first of them stand for all."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _length(name: str, max_length: int, positions: int) -> int:
    return min(positions, max_length * (_LONG_TIMES if name == LONG else 1))


def _shares(available: Mapping[str, int], budget: int) -> dict[str, int]:
    """Tokens of each slice: the smallest are served first, so that all that is left over goes to the larger ones."""
    shares: dict[str, int] = {}
    for place, (name, tokens) in enumerate(sorted(available.items(), key=lambda item: item[1])):
        shares[name] = min(tokens, (budget - sum(shares.values())) // (len(available) - place))
    return {name: shares[name] for name in available}


def _fill(name: str, encoded: Sequence[tuple[int, ...]], budget: int) -> list[Document]:
    """Documents in their order until the budget is spent; the last is cut to fit."""
    documents: list[Document] = []
    for ids in encoded:
        kept = ids[: budget + 1]
        if len(kept) < 2:
            break
        documents.append(Document(slice=name, ids=kept))
        budget -= len(kept) - 1
    return documents
