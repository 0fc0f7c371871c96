"""How sure a paired difference is, whenever one looks: a confidence sequence for its median.

Within a pair, chance alone decides which side goes first. So around the true difference the measured one falls above or
below with even odds, whatever the machine does meanwhile: drift, bursts and dependence between pairs shift neither.
Bets on an even coin give the sequence: staking on "above" for every probability from 1/2 to 1 at once, a gambler's
wealth after `above` of `count` is

    W = 2 ∫ (2p)^above (2(1-p))^(count-above) dp    over p from 1/2 to 1

and at a fair coin it reaches 1/error at any time with probability `error` at most (Ville 1939; mixtures: Robbins 1970,
"Statistical methods related to the law of the iterated logarithm"; for quantiles: Howard and Ramdas 2022, "Sequential
estimation of quantiles with applications to A/B testing and best-arm identification", Bernoulli 28). One may look after
each pair and stop when one likes: no correction for looking is due.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

_MOST = 2000
"""Pairs. Where the search for how many more would do gives up: nobody waits so long."""


def median_interval(values: Sequence[float], error: float) -> tuple[float, float]:
    """(low, high) for the median of what `values` are drawn from; each end fails with probability `error` at most, over
    all looks together. Infinite while there are too few values."""
    need = _needed_above(len(values), error)
    if need is None:
        return -math.inf, math.inf
    ranked = sorted(values)
    return ranked[-need], ranked[need - 1]


def pairs_to_tell(beyond: int, count: int, error: float) -> int | None:
    """About how many pairs it takes in all until an end of the interval passes a limit that `beyond` of `count` values
    are beyond, if they go on like this; None when that is not in sight."""
    if 2 * beyond <= count:
        return None
    reached = bisect_left(
        range(_MOST + 1), True, lo=count, key=lambda pairs: _proves(beyond / count * pairs, pairs, error)
    )
    return reached if reached <= _MOST else None


@cache
def _needed_above(count: int, error: float) -> int | None:
    """The least number of values above a point that proves, among `count`, that the median is; None: no number does."""
    need = bisect_left(range(count + 1), True, lo=count // 2 + 1, key=lambda above: _proves(above, count, error))
    return need if need <= count else None


def _proves(above: float, count: int, error: float) -> bool:
    return _log_wealth(math.floor(above), count) >= -math.log(error)


def _log_wealth(above: int, count: int) -> float:
    """log W. The integral is the upper part of a beta function, which is a sum of binomials: with B(above + 1,
    count - above + 1) = 1 / ((count + 1) · C(count, above)), its share above 1/2 is P(Bin(count + 1, 1/2) <= above)."""
    ways = term = 1
    for k in range(above):
        term = term * (count + 1 - k) // (k + 1)
        ways += term
    return math.log(ways) - math.log((count + 1) * math.comb(count, above))
