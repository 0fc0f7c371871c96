"""Where a series of measurements jumped: binary segmentation with Student's t at every possible split.

The split with the largest t is taken, its p-value multiplied by the number of splits that were tried (Bonferroni, which
keeps the chance of a false alarm below the level: K. J. Worsley, "On the likelihood ratio test for a shift in location
of normal populations", JASA 74, 1979), and both sides are searched again (A. J. Scott and M. Knott, Biometrics 30,
1974). Continuous benchmarking works likewise: D. Daly et al., ICPE 2020, with a permutation test, M. Fleming et al.,
"Hunter", ICPE 2023, with the t-test. A permutation test cannot tell anything from fewer than about eight nights; the
t-test can from four, for the price of supposing that noise is normal. Logarithms are compared, since machines are noisy
by a share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

SIGNIFICANCE = 0.01
"""Chance that a series without any jump is said to have one."""

TOLERANCE = 0.02
"""A smaller jump does not matter, however sure it is."""

FEWEST = 4
"""Measurements below which nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Jump:
    """The values from index `at` on lie on another level than those before it."""

    at: int
    before: float  # geometric mean of the level that ends here
    after: float  # of the level that begins here
    p_value: float

    @property
    def change(self) -> float:
        """After over before, minus 1."""
        return self.after / self.before - 1


def jumps(values: Sequence[float]) -> list[Jump]:
    """All jumps of a series of positive values, in order."""
    if not values:
        return []
    logs = [math.log(max(value, 1e-12)) for value in values]
    cuts = _search(logs, 0, len(logs))
    edges = [0, *(at for at, _ in cuts), len(logs)]
    means = [math.exp(_mean(logs[low:high])) for low, high in itertools.pairwise(edges)]
    return [
        Jump(at=at, before=means[number], after=means[number + 1], p_value=p_value)
        for number, (at, p_value) in enumerate(cuts)
    ]


def t_tail(t: float, freedom: int) -> float:
    """P(|T| > t) of Student's t with a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    cosine_2 = freedom / (freedom + t * t)
    sine = math.sqrt(1 - cosine_2)
    odd = freedom % 2
    term = total = math.sqrt(cosine_2) if odd else 1.0
    if freedom == 1:
        total = 0.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= cosine_2 * (power - 1) / power
        total += term
    inside = 2 / math.pi * (math.atan(t / math.sqrt(freedom)) + sine * total) if odd else sine * total
    return max(0.0, 1 - inside)


def _search(logs: Sequence[float], low: int, high: int) -> list[tuple[int, float]]:
    """(index, p-value) of the jumps within [low, high)."""
    found = _best_split(logs[low:high])
    if found is None:
        return []
    at, p_value = low + found[0], found[1]
    return [*_search(logs, low, at), (at, p_value), *_search(logs, at, high)]


def _best_split(logs: Sequence[float]) -> tuple[int, float] | None:
    """The split whose two levels explain most of the squares; it is also that of the largest t."""
    count = len(logs)
    if count < FEWEST:
        return None
    mean = _mean(logs)
    total = sum((value - mean) ** 2 for value in logs)
    lefts = list(itertools.accumulate(value - mean for value in logs))
    explained = {at: lefts[at - 1] ** 2 * count / (at * (count - at)) for at in range(1, count)}
    at = max(explained, key=explained.__getitem__)
    left_over = max(total - explained[at], 0.0)
    t = math.sqrt(explained[at] * (count - 2) / left_over) if left_over > 0 else math.inf
    p_value = min(1.0, len(explained) * t_tail(t, count - 2))
    step = abs(math.expm1(_mean(logs[at:]) - _mean(logs[:at])))
    return (at, p_value) if p_value <= SIGNIFICANCE and step > TOLERANCE else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
