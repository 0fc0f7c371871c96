"""The documents of one evaluation as tensors: each alone, without padding, several at once on threads of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from builder.evaluate import head
from builder.evaluate.documents import Document
from builder.evaluate.hidden import HiddenStates
from builder.evaluate.scores import DocumentScore
from builder.evaluate.sides import Side

if TYPE_CHECKING:
    from builder.quantize.calibration.runner import Workers

_SAMPLE_TOKENS, _SAMPLE_SHARE = 2048, 8
"""The errors of single layers and linears are measured on so many tokens at most, and on one in so many."""

T = TypeVar("T")


class Batch:
    """`documents` in their order, which every list of results has too."""

    def __init__(self, documents: Sequence[Document]) -> None:
        import torch

        self._documents = documents
        self._ids = [torch.tensor(document.ids) for document in documents]

    def states(self, path: Path, hidden_size: int) -> HiddenStates:
        """Room for the hidden states of all documents in the file `path`."""
        return HiddenStates(path, [len(ids) for ids in self._ids], hidden_size)

    def sample(self) -> list[int]:
        """Numbers of a few documents for what is measured many times, taken from the slices in turn; one at least."""
        names = dict.fromkeys(document.slice for document in self._documents)
        queues = [[n for n, document in enumerate(self._documents) if document.slice == name] for name in names]
        turns = [queue[turn] for turn in range(len(self._documents)) for queue in queues if turn < len(queue)]
        budget = min(_SAMPLE_TOKENS, sum(map(len, self._ids)) // _SAMPLE_SHARE)
        chosen, left = [turns[0]], budget - len(self._ids[turns[0]])
        for number in turns[1:]:
            if len(self._ids[number]) <= left:
                chosen.append(number)
                left -= len(self._ids[number])
        return sorted(chosen)

    def part(self, numbers: Sequence[int]) -> Batch:
        return Batch([self._documents[number] for number in numbers])

    def run(self, work: Callable[[int], T], pool: Workers) -> list[T]:
        """`work` for the number of each document, without gradients."""
        import torch

        def one(number: int) -> T:
            with torch.inference_mode():
                return work(number)

        return pool.run(partial(one, number) for number in range(len(self._ids)))

    def embed(self, side: Side, states: HiddenStates) -> None:
        for number, ids in enumerate(self._ids):
            states.put(number, side.embed(ids))

    def final_norm(self, side: Side, states: HiddenStates) -> None:
        for number in range(len(self._ids)):
            states.put(number, side.final_norm(states[number].to(side.device)))

    def compare(
        self,
        sides: tuple[Side, Side],
        states: tuple[HiddenStates, HiddenStates],
        pool: Workers,
        progress: Callable[[float], None] = lambda share: None,
    ) -> list[DocumentScore]:
        """What the two sides say of each document, from their states after the final norm."""
        base, other = sides
        name = base.family.embedding if base.config.tie_word_embeddings else base.family.lm_head
        return head.compare(
            states,
            [ids[1:].to(base.device) for ids in self._ids],
            [document.slice for document in self._documents],
            (lambda words: base.rows(name, words), lambda words: other.rows(name, words)),
            vocabulary=base.config.vocab_size,
            softcap=base.config.raw.get("final_logit_softcapping"),
            pool=pool,
            progress=progress,
        )
