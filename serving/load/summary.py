"""From records to figures: two passes over the file, in flat memory, over the steady part of the run."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.load.histogram import Histogram
from serving.load.records import UNFINISHED, Record
from serving.load.slo import Slo
from serving.load.steady import half_width
from serving.load.survey import Survey, Window

Records = Callable[[], Iterable[Record]]
"""Opens the records anew for each pass."""

QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "icl_ms", "e2e_ms")
"""itl: per token, a response of k tokens after g ms being k gaps of g/k · icl: between responses, as they came"""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Milliseconds. `ci`: half the 95 % intervals of mean and quantiles, where there are enough blocks of time."""

    count: float
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    ci: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Per second, with half of its 95 % interval where there are enough blocks."""

    value: float
    ci: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Requests belong to the window in which they were due; tokens and completions to that in which they came."""

    window: Window
    requests: int  # due in the window
    completed: int  # of these, without an error
    errors: Mapping[str, int]  # of these, by kind; unfinished ones are none
    unfinished: int
    messages: Mapping[str, str]  # kind of error -> the words of the first one
    counted_by: Mapping[str, int]  # requests by who counted their tokens
    ended_early: int  # complete answers shorter than asked for
    too_long: int  # answers of more tokens than asked for: impossible
    output_tokens: float  # that arrived in the window, failed requests' too
    input_tokens: int  # of completed requests due in the window, as the server counted them
    output_tokens_per_s: Rate
    input_tokens_per_s: Rate
    total_tokens_per_s: Rate
    requests_per_s: Rate
    goodput_per_s: Rate | None  # requests that met every objective; None without objectives
    good_share: float | None
    latency: Mapping[str, Distribution]  # by LATENCIES; absent where nothing was measured
    histograms: Mapping[str, Any]


def summarise(
    records: Records, *, slo: Slo | None = None, warm_up_s: float | None = None, whole: bool = False
) -> Summary | None:
    """Figures of a run; None when it has no record. `warm_up_s` sets the cut, `whole` leaves nothing out."""
    survey = Survey()
    for record in records():
        survey.add(record)
    if not survey.requests:
        return None
    window = survey.window(warm_up_s=warm_up_s, whole=whole)
    tally = _Tally(window, slo)
    for record in records():
        tally.add(record)
    return tally.summary()


class _Block:
    """Sums of one block of the window."""

    def __init__(self) -> None:
        self.output = self.input = self.completed = self.good = 0.0
        self.latency = {name: Histogram() for name in LATENCIES}


class _Tally:
    """The second pass: sums by block."""

    def __init__(self, window: Window, slo: Slo | None) -> None:
        self._window, self._slo = window, slo
        self._count = max(window.blocks, 1)
        self._blocks = [_Block() for _ in range(self._count)]
        # Rounded: the window's edges are times of records, and these must not fall out of it.
        low, high = round(window.start_s * 1e9), round(window.end_s * 1e9)
        self._edges = [low + (high - low) * at // self._count for at in range(self._count)] + [high + 1]
        self._errors: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._requests = self._completed = self._early = self._long = self._good = self._unfinished = 0

    def add(self, record: Record) -> None:
        for at, tokens in record.tokens_between(self._edges):
            self._blocks[at].output += tokens
        if record.error is None and (block := self._block(record.ended_ns)) is not None:
            block.completed += 1
            block.good += bool(self._slo and self._slo.met_by(record))
        due = self._block(record.scheduled_ns)
        if due is None:
            return
        self._requests += 1
        self._long += record.output_tokens > record.asked_output
        if record.error is not None:
            self._fail(record)
            return
        self._completed += 1
        self._counted[record.counted_by] += 1
        self._early += record.output_tokens < record.asked_output
        self._good += bool(self._slo and self._slo.met_by(record))
        due.input += record.input_tokens or 0
        self._measure(record, due)

    def _fail(self, record: Record) -> None:
        if record.error == UNFINISHED:
            self._unfinished += 1
        else:
            kind = str(record.error)
            self._errors[kind] += 1
            self._messages.setdefault(kind, record.message)

    def _measure(self, record: Record, due: _Block) -> None:
        if record.ttft_ns is not None:
            due.latency["ttft_ms"].add(max(record.ttft_ns, 1))
        if record.tpot_ns is not None:
            due.latency["tpot_ms"].add(record.tpot_ns)
        due.latency["e2e_ms"].add(max(record.e2e_ns, 1))
        itl, icl = due.latency["itl_ms"], due.latency["icl_ms"]
        icl.add_us(record.gaps_us)
        if record.single_tokens:
            itl.add_us(record.gaps_us)
            return
        for gap_ns, tokens in record.token_gaps():
            itl.add(max(gap_ns, 1), tokens)

    def _block(self, at_ns: int) -> _Block | None:
        at = bisect.bisect_right(self._edges, at_ns) - 1
        return self._blocks[at] if 0 <= at < self._count else None

    def summary(self) -> Summary:
        merged = {name: _merged([block.latency[name] for block in self._blocks]) for name in LATENCIES}
        return Summary(
            window=self._window,
            requests=self._requests,
            completed=self._completed,
            errors=dict(sorted(self._errors.items())),
            unfinished=self._unfinished,
            messages=self._messages,
            counted_by=dict(self._counted),
            ended_early=self._early,
            too_long=self._long,
            output_tokens=sum(block.output for block in self._blocks),
            input_tokens=int(sum(block.input for block in self._blocks)),
            output_tokens_per_s=self._rate(lambda block: block.output),
            input_tokens_per_s=self._rate(lambda block: block.input),
            total_tokens_per_s=self._rate(lambda block: block.output + block.input),
            requests_per_s=self._rate(lambda block: block.completed),
            goodput_per_s=self._rate(lambda block: block.good) if self._slo else None,
            good_share=self._share() if self._slo else None,
            latency={name: self._distribution(name, all_) for name, all_ in merged.items() if all_.count},
            histograms={name: all_.to_json() for name, all_ in merged.items() if all_.count},
        )

    def _share(self) -> float:
        """Unfinished requests are neither good nor bad."""
        judged = self._requests - self._unfinished
        return self._good / judged if judged else 0.0

    def _rate(self, value: Callable[[_Block], float]) -> Rate:
        span = self._window.seconds / self._count
        return Rate(
            value=sum(map(value, self._blocks)) / self._window.seconds,
            ci=half_width([value(block) / span for block in self._blocks]),
        )

    def _distribution(self, name: str, merged: Histogram) -> Distribution:
        parts = [block.latency[name] for block in self._blocks if block.latency[name].count]
        widths = {"mean": half_width([part.mean_ns / 1e6 for part in parts])}
        for label, share in QUANTILES.items():
            widths[label] = half_width([part.quantile_ns(share) / 1e6 for part in parts])
        return Distribution(
            count=merged.count,
            mean=merged.mean_ns / 1e6,
            max=merged.max_ns / 1e6,
            ci={label: width for label, width in widths.items() if width is not None},
            **{label: merged.quantile_ns(share) / 1e6 for label, share in QUANTILES.items()},
        )


def _merged(parts: Iterable[Histogram]) -> Histogram:
    merged = Histogram()
    for part in parts:
        merged.merge(part)
    return merged
