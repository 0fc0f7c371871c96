"""The first look at a run's records: which part of it is steady, and into how many blocks to cut that."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.load.histogram import Histogram
from serving.load.records import Record
from serving.load.slices import Slices
from serving.load.steady import MOST_BLOCKS, independent_blocks, mser_cut

_LEAST_SLICES = 10


@dataclass(frozen=True, kw_only=True)
class Window:
    """The part of a run that its figures are of, in seconds after its origin."""

    start_s: float
    end_s: float
    steady: bool
    why: str
    blocks: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.start_s


class Survey:
    """Takes every record once, then tells the window."""

    def __init__(self) -> None:
        self.requests = 0
        self._slices = Slices()
        self._first_ns, self._last_sent_ns, self._last_ns = math.inf, 0, 0
        self._e2e = Histogram()

    def add(self, record: Record) -> None:
        self.requests += 1
        self._slices.add(record)
        self._first_ns = min(self._first_ns, record.scheduled_ns)
        self._last_sent_ns = max(self._last_sent_ns, record.sent_ns)
        self._last_ns = max(self._last_ns, record.ended_ns)
        if record.error is None:
            self._e2e.add(max(record.e2e_ns, 1))

    def window(self, *, warm_up_s: float | None, whole: bool) -> Window:
        first, sent, last = self._first_ns / 1e9, self._last_sent_ns / 1e9, self._last_ns / 1e9
        if whole:
            return self._made(first, last, steady=False, why="all of the run was asked for")
        if warm_up_s is not None:
            end = sent if sent > first + warm_up_s else last
            return self._made(min(first + warm_up_s, end), end, steady=True, why=f"warm-up of {warm_up_s:g} s cut off")
        rows = self._slices.between(self._first_ns, self._last_sent_ns)
        if len(rows) < _LEAST_SLICES or sent - first < 3 * self._e2e.quantile_ns(0.5) / 1e9:
            return self._made(first, last, steady=False, why="too short to find a steady part: all of it is counted")
        cuts = [
            mser_cut([row.tokens for row in rows]),
            mser_cut([row.ttft_ns / row.started for row in rows if row.started]),
        ]
        if None in cuts:
            middle = first + (sent - first) / 2
            return self._made(middle, sent, steady=False, why="not steady: rate or TTFT still changes at the end")
        start = math.ceil(first) + max(cut for cut in cuts if cut is not None)
        return self._made(
            float(start), sent, steady=True, why="MSER on tokens/s and TTFT; the end is cut at the last send"
        )

    def _made(self, start: float, end: float, *, steady: bool, why: str) -> Window:
        rows = self._slices.between(start * 1e9, end * 1e9)
        blocks = independent_blocks([row.tokens for row in rows]) if len(rows) >= _LEAST_SLICES else 0
        return Window(
            start_s=start, end_s=max(end, start + 1e-9), steady=steady, why=why, blocks=min(blocks, MOST_BLOCKS)
        )
