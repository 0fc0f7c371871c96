"""What one request did, on disk as it ends: the format that everything else about a load test is computed from.

`records.jsonl` has one object per line with the fields of Record, in order of ending; `records.parquet`, written beside
it where pyarrow is installed, has the same columns.
"""

from __future__ import annotations

import bisect
import importlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

RECORDS, PARQUET = "records.jsonl", "records.parquet"
UNFINISHED = "unfinished"
"""`error` of a request that was still in the air when the run ended: no fault of the server's."""

_BUFFER_BYTES = 1 << 20
_PARQUET_ROWS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One request. Times are nanoseconds after the run's origin (run.json), on a monotonic clock.

    Latencies count from `scheduled_ns`, when the request was due, not from when the generator came to send it.
    """

    number: int  # in order of sending
    session: int  # conversation
    turn: int  # in that conversation, from 0
    scheduled_ns: int  # closed loop: the same as sent_ns
    sent_ns: int
    first_ns: int | None  # arrival of the first response that bore tokens
    ended_ns: int  # the end of the answer, however it came
    asked_input: int | None  # tokens that the prompt was made to have
    asked_output: int  # most tokens that the answer may have
    input_tokens: int | None  # the server's count
    output_tokens: int
    counted_by: str  # server (each response) · usage (the whole) · responses · tokenizer
    error: str | None  # a kind of serving.client.errors.KINDS, or UNFINISHED
    message: str
    gaps_us: tuple[int, ...]  # microseconds between responses that bore tokens
    counts: tuple[int, ...]  # tokens of each such response, the first included; empty: one each

    @property
    def ttft_ns(self) -> int | None:
        """Time to first token."""
        return None if self.first_ns is None else self.first_ns - self.scheduled_ns

    @property
    def e2e_ns(self) -> int:
        """From the due time to the last token; to the end where none came."""
        return (
            self.ended_ns if self.first_ns is None else self.first_ns + 1000 * sum(self.gaps_us)
        ) - self.scheduled_ns

    @property
    def tpot_ns(self) -> float | None:
        """Time per output token after the first: (e2e - TTFT) / (output tokens - 1)."""
        return 1e3 * sum(self.gaps_us) / (self.output_tokens - 1) if self.gaps_us and self.output_tokens > 1 else None

    def arrivals(self) -> Iterator[tuple[int, float]]:
        """(time, tokens) of each response. Tokens are shared out evenly where only their total is known."""
        if self.first_ns is None:
            return
        at_ns, before = self.first_ns, 0.0
        for gap_us, so_far in zip((0, *self.gaps_us), self._running_totals(), strict=True):
            at_ns += 1000 * gap_us
            yield at_ns, so_far - before
            before = so_far

    def tokens_between(self, edges: Sequence[int]) -> Iterator[tuple[int, float]]:
        """(i, tokens that arrived from edges[i] on and before edges[i + 1]), both ascending; no empty ones.

        What `arrivals` would add up to, without a turn of the interpreter for every token.
        """
        if self.first_ns is None:
            return
        after_us = list(itertools.accumulate(self.gaps_us, initial=0))
        so_far = self._running_totals()
        first = max(bisect.bisect_right(edges, self.first_ns) - 1, 0)
        place = bisect.bisect_left(after_us, (edges[first] - self.first_ns) / 1000)
        for index in range(first, len(edges) - 1):
            if place == len(after_us):
                return
            end = bisect.bisect_left(after_us, (edges[index + 1] - self.first_ns) / 1000, place)
            if end > place:
                yield index, so_far[end - 1] - (so_far[place - 1] if place else 0)
            place = end

    def token_gaps(self) -> Iterator[tuple[float, float]]:
        """(gap in ns, how many): a response of k tokens after a wait of g stands for k gaps of g/k."""
        for gap_us, (_, tokens) in zip(self.gaps_us, itertools.islice(self.arrivals(), 1, None), strict=True):
            if tokens > 0:
                yield 1000 * gap_us / tokens, tokens

    @property
    def single_tokens(self) -> bool:
        """Whether every response bore exactly one token, so that `gaps_us` are the gaps between tokens."""
        return not self.counts and self.output_tokens == 1 + len(self.gaps_us)

    def _running_totals(self) -> Sequence[float]:
        """Tokens so far at each response; there is at least one."""
        responses = 1 + len(self.gaps_us)
        totals = list(itertools.accumulate(self.counts)) or range(1, responses + 1)
        if totals[-1] == self.output_tokens or responses == 1:
            return totals
        return [self.output_tokens * number / responses for number in range(1, responses + 1)]


class RecordWriter:
    """Appends records to a file; what was written is there whatever happens next."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / RECORDS).open("w", encoding="utf-8", buffering=_BUFFER_BYTES)
        self.written = 0

    def write(self, record: Record) -> None:
        """Append one."""
        values = {name: getattr(record, name) for name in _NAMES}
        self._file.write(json.dumps(values, separators=(",", ":"), ensure_ascii=False) + "\n")
        self.written += 1

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a run, one at a time. A last line that was cut off by a crash is left out."""
    with (folder / RECORDS).open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            values = json.loads(line)
            values["gaps_us"], values["counts"] = tuple(values["gaps_us"]), tuple(values["counts"])
            yield Record(**values)


def write_parquet(folder: Path) -> Path | None:
    """The same records as Parquet, a few thousand in memory at a time; None where pyarrow is missing or of no use."""
    try:
        pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:  # also of one that is there, for the numpy beside it
        return None
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in _COLUMNS.items()])
    for name in ("gaps_us", "counts"):
        schema = schema.append(pyarrow.field(name, pyarrow.list_(pyarrow.int64())))
    path = folder / PARQUET
    records = read_records(folder)
    with parquet.ParquetWriter(path, schema) as writer:
        while batch := [_row(record) for record in itertools.islice(records, _PARQUET_ROWS)]:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
    return path


def _row(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _NAMES}


_NAMES = tuple(field.name for field in fields(Record))
_COLUMNS = {
    name: "string" if name in ("counted_by", "error", "message") else "int64"
    for name in _NAMES
    if name not in ("gaps_us", "counts")
}
