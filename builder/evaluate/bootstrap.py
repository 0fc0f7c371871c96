"""Confidence intervals by document bootstrap: documents are drawn again, never tokens, which depend on each other.

Bias-corrected and accelerated (Efron 1987, "Better bootstrap confidence intervals"), with its normal quantiles widened
to Student's for few documents (Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3). Every
slice keeps its number of documents, for the mixture of slices was chosen and not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from builder.evaluate.scores import METRICS, Scores, metric

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_NORMAL = NormalDist()
_FEWEST = 4


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric with the ends of its interval."""

    value: float
    low: float
    high: float


def estimates(scores: Scores, *, confidence: float, resamples: int, seed: int) -> Mapping[str, Estimate]:
    """Every metric of `scores` with its two-sided interval. The same arguments give the same bits."""
    import numpy as np

    count = len(scores.documents)
    strata = _strata(scores)
    drawn, dropped = _resample(strata, count, resamples, seed), _leave_one_out(count)
    found = {}
    for name in METRICS:
        value = float(metric(scores, name, np.ones((1, count)))[0])
        if count < 2:
            found[name] = Estimate(value=value, low=-np.inf, high=np.inf)
            continue
        low, high = _interval(
            value, metric(scores, name, drawn), metric(scores, name, dropped), strata, confidence=confidence
        )
        found[name] = Estimate(value=value, low=low, high=high)
    return found


def _strata(scores: Scores) -> list[npt.NDArray[np.int64]]:
    """Documents by slice; all together where a slice has so few that they say nothing of their own spread."""
    import numpy as np

    names = np.asarray([score.slice for score in scores.documents])
    found = [np.flatnonzero(names == name) for name in scores.slices]
    return found if min(map(len, found)) >= _FEWEST else [np.arange(len(names))]


def _resample(strata: list[npt.NDArray[np.int64]], count: int, resamples: int, seed: int) -> Floats:
    """[resamples, documents]: how often each was drawn."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(seed))
    weights = np.zeros((resamples, count))
    for members in strata:
        drawn = generator.integers(0, len(members), size=(resamples, len(members)))
        for row, picks in enumerate(drawn):
            weights[row, members] = np.bincount(picks, minlength=len(members))
    return weights


def _leave_one_out(count: int) -> Floats:
    import numpy as np

    weights: Floats = np.ones((count, count)) - np.eye(count)
    return weights


def _interval(
    value: float, drawn: Floats, jackknife: Floats, strata: list[npt.NDArray[np.int64]], *, confidence: float
) -> tuple[float, float]:
    import numpy as np

    if drawn.min() == drawn.max():
        return float(drawn[0]), float(drawn[0])
    below = (np.count_nonzero(drawn < value) + 0.5 * np.count_nonzero(drawn == value)) / len(drawn)
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / len(drawn)), 1 - 0.5 / len(drawn)))
    acceleration = _acceleration(jackknife, strata)
    reach = _widened(_NORMAL.inv_cdf((1 + confidence) / 2), len(jackknife) - len(strata), len(jackknife))
    levels = [_NORMAL.cdf(bias + (bias + end) / (1 - acceleration * (bias + end))) for end in (-reach, reach)]
    low, high = np.quantile(drawn, levels)
    return float(low), float(high)


def _acceleration(jackknife: Floats, strata: list[npt.NDArray[np.int64]]) -> float:
    """A sixth of the skewness of the documents' influence."""
    import numpy as np

    influence = np.concatenate([jackknife[members].mean() - jackknife[members] for members in strata])
    spread = float((influence**2).sum())
    return 0.0 if spread == 0 else float((influence**3).sum()) / (6 * spread**1.5)


def _widened(z: float, freedom: int, count: int) -> float:
    """Student's quantile by its expansion around the normal one (Abramowitz and Stegun 26.7.5), for a variance that
    the bootstrap takes with 1/n where 1/(n-1) would be unbiased."""
    freedom = max(freedom, 1)
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return float(student * (count / freedom) ** 0.5)
