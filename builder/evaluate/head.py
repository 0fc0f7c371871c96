"""From last hidden states to what the two models say of each token, without ever holding [tokens, vocabulary].

The output layer passes by in blocks of the vocabulary. What is kept of a token are a few sums (an online softmax):
with z the base's logits and q the other's, their largest, Σ exp, and Σ exp(z)·(z − q), from which KL(base ‖ quantized)
= Σ p (z − q) − (log Σ exp z − log Σ exp q) follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from builder.evaluate.hidden import HiddenStates
from builder.evaluate.scores import DocumentScore
from builder.quantize.problem import Tensor

if TYPE_CHECKING:
    from builder.quantize.calibration.runner import Workers

BLOCK_WORDS = 4096
"""Rows of the output layer that are in memory at once. Fixed: the last bits depend on it."""

Rows = Callable[[slice], Tensor]
"""float32 rows of an output layer, on the compute device."""


class _Softmax:
    """log Σ exp, the first choice and the target's logit of each token, over blocks that come one by one."""

    def __init__(self, targets: Tensor) -> None:
        import torch

        count, device = len(targets), targets.device
        self.largest = torch.full((count,), -torch.inf, device=device)
        self.total = torch.zeros(count, dtype=torch.float64, device=device)
        self.first = torch.zeros(count, dtype=torch.int64, device=device)
        self.of_target = torch.zeros(count, device=device)
        self._targets = targets

    def add(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Take up logits [tokens, block]; (exp of them, the factor for what was summed before), below one maximum."""
        import torch

        top, place = logits.max(dim=1)
        larger = top > self.largest  # strictly: of equals the first counts, as in argmax
        self.first = torch.where(larger, place + start, self.first)
        maximum = torch.where(larger, top, self.largest)
        shrink = (self.largest - maximum).double().exp()
        exponents = (logits - maximum[:, None]).exp()
        self.total = self.total * shrink + exponents.sum(dim=1, dtype=torch.float64)
        self.largest = maximum
        inside = (self._targets >= start) & (self._targets < start + logits.shape[1])
        column = (self._targets - start).clamp(0, logits.shape[1] - 1)
        self.of_target = torch.where(inside, logits.gather(1, column[:, None])[:, 0], self.of_target)
        return exponents, shrink

    @property
    def log_total(self) -> Tensor:
        return self.total.log() + self.largest.double()


@dataclass
class _Comparison:
    base: _Softmax
    other: _Softmax
    difference: Tensor  # float64 Σ exp(z − largest)·(z − q)

    def add(self, base: Tensor, other: Tensor, start: int) -> None:
        exponents, shrink = self.base.add(base, start)
        self.other.add(other, start)
        self.difference = self.difference * shrink + (exponents * (base - other)).double().sum(dim=1)

    def score(self, name: str) -> DocumentScore:
        log_base, log_other = self.base.log_total, self.other.log_total
        divergence = self.difference / self.base.total - (log_base - log_other)
        return DocumentScore(
            slice=name,
            nll_base=(log_base - self.base.of_target.double()).cpu().numpy(),
            nll=(log_other - self.other.of_target.double()).cpu().numpy(),
            kl=divergence.clamp_min(0).cpu().numpy(),  # below zero by rounding alone
            agreed=(self.base.first == self.other.first).cpu().numpy(),
        )


def compare(
    states: tuple[HiddenStates, HiddenStates],
    targets: Sequence[Tensor],
    slices: Sequence[str],
    rows: tuple[Rows, Rows],
    *,
    vocabulary: int,
    softcap: float | None,
    pool: Workers,
    progress: Callable[[float], None] = lambda share: None,
) -> list[DocumentScore]:
    """What base and other say of every document.

    Args:
        states: after the final norm, base first.
        targets: of each document the ids that follow, one fewer than its tokens: the last token predicts nothing.
        rows: of the two output layers.
        softcap: logits are `softcap·tanh(logits / softcap)`, as in Gemma 2.
    """
    import torch

    found = [_comparison(target) for target in targets]
    for start in range(0, vocabulary, BLOCK_WORDS):
        words = slice(start, min(start + BLOCK_WORDS, vocabulary))
        weights = [side(words) for side in rows]

        def add(number: int, start: int, weights: list[Tensor]) -> None:
            with torch.inference_mode():
                tokens = len(targets[number])
                logits = [
                    _capped(side[number][:tokens].to(weight.device) @ weight.T, softcap)
                    for side, weight in zip(states, weights, strict=True)
                ]
                found[number].add(logits[0], logits[1], start)

        pool.run(partial(add, number, start, weights) for number in range(len(targets)))
        progress(words.stop / vocabulary)
    return [comparison.score(name) for comparison, name in zip(found, slices, strict=True)]


def _comparison(targets: Tensor) -> _Comparison:
    import torch

    zeros = torch.zeros(len(targets), dtype=torch.float64, device=targets.device)
    return _Comparison(base=_Softmax(targets), other=_Softmax(targets), difference=zeros)


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * (logits / softcap).tanh()
