"""What the mock did, request by request: the truth that figures of a load test are compared with."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

_KEPT = 20_000  # entries at the endpoint; the file has all


@dataclass(kw_only=True, slots=True)
class Entry:
    """One request. Times are nanoseconds of CLOCK_MONOTONIC (`time.perf_counter_ns`), which all processes share.

    `end`: complete · refused, hidden_error, late_error, cut, garbage (the fault that ended it) · cancelled (its client
    left or asked for it). The three lists have one value per chunk that was sent.
    """

    number: int
    dialect: str
    request_id: str
    prompt_digest: str
    input_tokens: int
    asked: int
    received_ns: int
    started_ns: int = 0  # taken out of the queue
    scheduled_ns: list[int] = field(default_factory=list)
    sent_ns: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    stalled: bool = False
    end: str = ""
    ended_ns: int = 0


class Ledger:
    """Keeps the last entries in memory, totals of all, and writes each finished one to a file where one is given."""

    def __init__(self, path: Path | None = None) -> None:
        self._entries: deque[Entry] = deque(maxlen=_KEPT)
        self._file: TextIO | None = None if path is None else path.open("w", encoding="utf-8")
        self.ends: Counter[str] = Counter()
        self.output_tokens = 0
        self.input_tokens = 0
        self.chunks = 0
        self.opened = 0

    def open(self, **values: Any) -> Entry:
        """A new entry for a request that has arrived."""
        entry = Entry(number=self.opened, **values)
        self.opened += 1
        self.input_tokens += entry.input_tokens
        return entry

    def sent(self, entry: Entry, tokens: int, scheduled_ns: int) -> None:
        """A chunk has just been handed to the network."""
        entry.sent_ns.append(time.perf_counter_ns())
        entry.scheduled_ns.append(scheduled_ns)
        entry.tokens.append(tokens)
        self.output_tokens += tokens
        self.chunks += 1

    def close(self, entry: Entry, end: str) -> None:
        """The request is over."""
        entry.end, entry.ended_ns = end, time.perf_counter_ns()
        self.ends[end] += 1
        self._entries.append(entry)
        if self._file is not None:
            self._file.write(_line(entry))

    def lines(self) -> Iterator[str]:
        """JSONL of the entries in memory."""
        return (_line(entry) for entry in self._entries)

    def totals(self) -> dict[str, Any]:
        """Counts since the start."""
        return {
            "requests": self.opened,
            "active": self.opened - sum(self.ends.values()),
            "output_tokens": self.output_tokens,
            "input_tokens": self.input_tokens,
            "chunks": self.chunks,
            "ends": dict(self.ends),
        }

    def finish(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _line(entry: Entry) -> str:
    values = {name: getattr(entry, name) for name in Entry.__slots__}
    return json.dumps(values) + "\n"
