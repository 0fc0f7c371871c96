"""When a run has measured enough: after so many requests, after a time, or once its intervals are narrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from serving.load.slices import Slice, Slices
from serving.load.steady import block_means, half_width, independent_blocks, mser_cut
from trtllm_kit.errors import UsageError

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "requests": "all requests were sent",
        "time": "the time was spent",
        "precise": "the intervals are narrow enough",
        "interrupted": "it was interrupted",
        "exhausted": "the trace or dataset ended",
        "unreachable": "the server was gone",
    }
)

_LEAST_SLICES = 10
_WATCHED: Mapping[str, Callable[[Slice], float | None]] = MappingProxyType(
    {
        "output tokens/s": lambda row: row.tokens,
        "TTFT": lambda row: row.ttft_ns / row.started if row.started else None,
        "TPOT": lambda row: row.gap_ns / row.gaps if row.gaps else None,
    }
)


@dataclass(frozen=True, kw_only=True)
class Until:
    """At least one bound; `requests` counts sessions, whatever their turns.

    With `precision` (0.05: within 5 %) a run ends between `min_s` and `duration_s`.
    """

    requests: int | None = None
    duration_s: float | None = None
    precision: float | None = None
    min_s: float = 10.0

    def __post_init__(self) -> None:
        if self.requests is None and self.duration_s is None:
            raise UsageError("this run would never end", expected="a number of requests or a duration")
        if (self.requests is not None and self.requests < 1) or (self.duration_s is not None and self.duration_s <= 0):
            raise UsageError("this run would not begin", expected="1 request or more, a duration above 0")
        if self.precision is not None and self.duration_s is None:
            raise UsageError("a precision without a duration", expected="the longest time that it may take")

    def narrow_enough(self, slices: Slices, now_ns: int) -> bool:
        """Whether every watched mean over the settled slices is known to within the precision."""
        if self.precision is None or now_ns < self.min_s * 1e9:
            return False
        # The newest slices are still missing the answers that are in the air.
        rows = slices.rows[: max(int(now_ns // slices.width_ns) - 1, 0)]
        if len(rows) < _LEAST_SLICES:
            return False
        return all(self._known(rows, value) for value in _WATCHED.values())

    def _known(self, rows: list[Slice], value: Callable[[Slice], float | None]) -> bool:
        series = [found for found in map(value, rows) if found is not None]
        cut = mser_cut(series)
        if cut is None:
            return False
        means = block_means(series[cut:], independent_blocks(series[cut:]))
        width, mean = half_width(means), sum(means) / max(len(means), 1)
        return width is not None and mean > 0 and width <= (self.precision or 0.0) * mean
