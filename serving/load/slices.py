"""A run cut into equal slices of time while it goes: for live progress, for stopping, for finding the steady part."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.load.records import UNFINISHED, Record


@dataclass(slots=True)
class Slice:
    """Sums of one slice. Tokens are counted where they arrived, requests where they ended, TTFT where they were due."""

    tokens: float = 0.0
    completed: int = 0
    failed: int = 0
    ttft_ns: float = 0.0
    started: int = 0
    gap_ns: float = 0.0
    gaps: float = 0.0


@dataclass
class Slices:
    """All slices so far; `width_ns` long each."""

    width_ns: int = 1_000_000_000
    rows: list[Slice] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Count a request that has ended."""
        first = max(record.first_ns or 0, 0) // self.width_ns
        edges = range(first * self.width_ns, record.ended_ns + self.width_ns + 1, self.width_ns)
        for at, tokens in record.tokens_between(edges):
            self._row(first + at).tokens += tokens
        if record.first_ns is not None and record.ttft_ns is not None:
            due = self._at(record.scheduled_ns)
            due.ttft_ns += record.ttft_ns
            due.started += 1
        if record.gaps_us:
            end = self._at(record.ended_ns)
            end.gap_ns += 1e3 * sum(record.gaps_us)
            end.gaps += max(record.output_tokens - 1, 1)
        if record.error is None:
            self._at(record.ended_ns).completed += 1
        elif record.error != UNFINISHED:
            self._at(record.ended_ns).failed += 1

    def between(self, low_ns: float, high_ns: float) -> list[Slice]:
        """Slices that lie wholly in a span of time."""
        return self.rows[-int(-low_ns // self.width_ns) : int(high_ns // self.width_ns)]

    def _at(self, at_ns: int) -> Slice:
        return self._row(max(at_ns, 0) // self.width_ns)

    def _row(self, index: int) -> Slice:
        while len(self.rows) <= index:
            self.rows.append(Slice())
        return self.rows[index]
