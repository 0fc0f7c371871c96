"""What the two models said about each document, and the metrics that follow from any weighting of the documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

# Columns of a document's sums over its predicted tokens.
TOKENS, NLL_BASE, NLL, KL, AGREED = range(5)
_TAIL = 0.99


@dataclass(frozen=True, kw_only=True)
class DocumentScore:
    """One document; each array has an element for each predicted token, in nats."""

    slice: str
    nll_base: Floats  # negative log-likelihood of the token that came
    nll: Floats  # the same by the quantized model
    kl: Floats  # KL(base ‖ quantized) over the whole vocabulary
    agreed: npt.NDArray[np.bool_]  # whether both would choose the same token first


@dataclass(frozen=True)
class Scores:
    """Documents that are judged together."""

    documents: Sequence[DocumentScore]

    def of_slice(self, name: str) -> Scores:
        return Scores([score for score in self.documents if score.slice == name])

    @cached_property
    def slices(self) -> list[str]:
        """Names in the order of first appearance."""
        return list(dict.fromkeys(score.slice for score in self.documents))

    @cached_property
    def sums(self) -> Floats:
        """[documents, 5] by the columns above."""
        import numpy as np

        rows = [
            [len(score.nll), score.nll_base.sum(), score.nll.sum(), score.kl.sum(), score.agreed.sum()]
            for score in self.documents
        ]
        return np.asarray(rows, dtype=np.float64).reshape(-1, 5)

    @property
    def tokens(self) -> int:
        """Predicted tokens."""
        return int(self.sums[:, TOKENS].sum())

    @cached_property
    def _ranked_kl(self) -> tuple[Floats, npt.NDArray[np.int64]]:
        """KL of every token, largest first, and the document of each."""
        import numpy as np

        values = np.concatenate([score.kl for score in self.documents])
        owners = np.repeat(np.arange(len(self.documents)), [len(score.kl) for score in self.documents])
        order = np.argsort(-values, kind="stable")
        return values[order], owners[order]

    def tail_of_kl(self, weights: Floats) -> Floats:
        """[n]: for each row of `weights` [n, documents] the smallest KL that 99 % of the tokens do not pass."""
        import numpy as np

        values, owners = self._ranked_kl
        tails = np.empty(len(weights))
        for row, weight in enumerate(weights):
            above = np.cumsum(weight[owners])  # weight of the tokens down to here
            share = (1 - _TAIL) * above[-1]
            tails[row] = values[min(int(np.searchsorted(above, share * (1 + 1e-12), side="right")), len(values) - 1)]
        return tails


def _mean(column: int) -> Callable[[Floats], Any]:
    return lambda sums: sums[:, column] / sums[:, TOKENS]


def _perplexity(column: int) -> Callable[[Floats], Any]:
    import numpy as np

    return lambda sums: np.exp(sums[:, column] / sums[:, TOKENS])


# Of sums [n, 5]; `kl_p99` alone needs the tokens themselves.
_OF_SUMS: Mapping[str, Callable[[Floats], Any]] = MappingProxyType(
    {
        "perplexity_base": lambda sums: _perplexity(NLL_BASE)(sums),
        "perplexity": lambda sums: _perplexity(NLL)(sums),
        "perplexity_increase": lambda sums: _perplexity(NLL)(sums) - _perplexity(NLL_BASE)(sums),
        "perplexity_ratio": lambda sums: _perplexity(NLL)(sums) / _perplexity(NLL_BASE)(sums),
        "kl_mean": _mean(KL),
        "top1_agreement": _mean(AGREED),
    }
)
METRICS = (*_OF_SUMS, "kl_p99")


def metric(scores: Scores, name: str, weights: Floats) -> Floats:
    """[n]: the metric with each document counted as often as a row of `weights` [n, documents] says."""
    if name == "kl_p99":
        return scores.tail_of_kl(weights)
    values: Floats = _OF_SUMS[name](weights @ scores.sums)
    return values
