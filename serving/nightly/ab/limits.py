"""Where the interval of a change for the worse lies beside the largest one that is allowed."""

from __future__ import annotations

from typing import Literal

Judged = Literal["good", "worse", "open"]


def judged(low: float, high: float, limit: float) -> Judged:
    """good: the whole interval is within the limit; worse: the whole interval is beyond it."""
    return "good" if high <= limit else "worse" if low > limit else "open"
