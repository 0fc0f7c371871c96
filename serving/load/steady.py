"""Which part of a run is steady, and how sure a mean over it is."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

_T_95 = (
    *(12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t, two-sided 95 %, for 1 to 30 degrees of freedom."""

MOST_BLOCKS, FEWEST_BLOCKS = 20, 5
_CORRELATED = 0.3


def mser_cut(series: Sequence[float]) -> int | None:
    """How many leading values to leave out, by MSER (White 1997): where the standard error of what remains is least.

    None when that lies beyond the middle, which means that the series has not settled: it still grows or falls.
    """
    count = len(series)
    if count < 4:
        return None
    best_at, best = 0, math.inf
    total = squares = 0.0
    for at in range(count - 1, -1, -1):
        total += series[at]
        squares += series[at] ** 2
        left = count - at
        if left < 4:
            continue
        error = max(squares - total**2 / left, 0.0) / left**2
        if error <= best:
            best_at, best = at, error
    return best_at if best_at <= count // 2 else None


def half_width(blocks: Sequence[float]) -> float | None:
    """Half the 95 % confidence interval of a mean, from the means of blocks; None with too few of them."""
    count = len(blocks)
    if count < FEWEST_BLOCKS:
        return None
    t = _T_95[count - 2] if count - 2 < len(_T_95) else 1.96
    return t * statistics.stdev(blocks) / math.sqrt(count)


def independent_blocks(series: Sequence[float]) -> int:
    """Into how many equal blocks to cut a series so that their means are about independent (lag-1 correlation)."""
    blocks = min(MOST_BLOCKS, len(series))
    while blocks >= 2 * FEWEST_BLOCKS and abs(_lag_one(block_means(series, blocks))) > _CORRELATED:
        blocks //= 2
    return blocks


def block_means(series: Sequence[float], blocks: int) -> list[float]:
    """Means of `blocks` equal parts."""
    edges = [len(series) * at // blocks for at in range(blocks + 1)]
    return [statistics.fmean(series[low:high]) for low, high in itertools.pairwise(edges) if high > low]


def _lag_one(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    spread = sum((value - mean) ** 2 for value in values)
    if not spread:
        return 0.0
    return sum((one - mean) * (other - mean) for one, other in itertools.pairwise(values)) / spread
