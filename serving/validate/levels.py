"""One level measured: the generator's summary, and what a second look at its records adds for the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from serving.client.request import Endpoint
from serving.load.records import UNFINISHED, Record
from serving.load.run import LoadResult, run_load
from serving.load.slo import Slo
from serving.load.summary import Distribution, Summary
from serving.validate.load import Load, Offer
from trtllm_kit.console import Silent, Talk
from trtllm_kit.files import disk_errors

RUNS = "runs"
"""Folder of the results that holds one folder per run, each as serving.load.run writes it."""

_SPREADS = ("ttft_ms", "itl_ms")


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level. Rates are over `duration_s`, the part that counts; errors count apart."""

    name: str  # "concurrency 8", "4 req/s", "trace"
    concurrency: float  # as set, or the mean number in flight
    rate: float | None  # requests per second offered; None for a closed loop
    requests: int
    completed: int
    unfinished: int  # in the air when the run ended, no fault of the server's
    errors: Mapping[str, int]  # kind -> count
    messages: Mapping[str, str]  # kind -> an example
    duration_s: float
    output_tokens: int  # of all complete answers
    input_tokens: int
    isl: int | None  # mean tokens of a prompt, as the server counted; None where it does not say
    osl: int | None  # mean tokens of an answer
    ended_early: int  # complete answers shorter than asked for
    counted_by: str  # "server" or "responses"
    output_tokens_per_s: float
    output_tokens_per_s_ci: float | None  # half of its 95 % interval, where the run was long enough
    requests_per_s: float
    goodput_per_s: float | None  # requests within the SLO; None without one
    good_share: float | None
    good_tokens_per_s: float | None  # output tokens of requests within the SLO
    ttft_ms: Distribution | None
    tpot_ms: Distribution | None  # per request: time after the first token over the tokens after it
    itl_ms: Distribution | None  # every single gap between tokens
    e2e_ms: Distribution | None
    spread: Mapping[str, tuple[tuple[float, float], ...]]  # latency -> (ms, share of values up to it), for drawing
    least_ttft_ms: float | None  # from sending, not from when it was due
    repeats: tuple[float, ...]  # output tokens/s of each run; this one is their median
    reason: str  # why it ended: a key of serving.load.until.REASONS
    window: Mapping[str, Any]  # which part counts, and why
    client: Mapping[str, Any]  # how busy the generator was
    warnings: tuple[str, ...]
    impossible: tuple[str, ...]  # what cannot be true: a measurement to be thrown away, not a fast server
    folder: str  # of its run, below the results

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(
    endpoint: Endpoint,
    load: Load,
    offer: Offer,
    *,
    tokenizer_dir: Path | None,
    stream: bool,
    results: Path,
    talk: Talk,
) -> Level | None:
    """Run an offer, as often as the load asks, into folders below `results`; None when nothing at all was sent."""
    warm_up = offer.warm_up(load, tokenizer_dir=tokenizer_dir, stream=stream)
    if warm_up is not None:
        run_load(endpoint, warm_up, folder=_fresh(results, f"warm-up {offer.name}"), talk=Silent())
    runs: list[Level] = []
    for number in range(load.repeats):
        plan = offer.again(number).plan(load, tokenizer_dir=tokenizer_dir, stream=stream)
        folder = _fresh(results, offer.name)
        result = run_load(endpoint, plan, folder=folder, talk=talk)
        if result.summary is not None:
            runs.append(_level(offer, result, result.summary, load.slo, folder.relative_to(results).as_posix()))
        if result.reason in ("interrupted", "unreachable"):
            break
    return _middle(runs) if runs else None


def _middle(runs: list[Level]) -> Level:
    rates = [run.output_tokens_per_s for run in runs]
    middle = min(runs, key=lambda run: abs(run.output_tokens_per_s - median(rates)))
    return replace(middle, repeats=tuple(rates), reason=runs[-1].reason)


def _fresh(results: Path, name: str) -> Path:
    """A new folder whose name tells its place in the order of runs."""
    runs = results / RUNS
    with disk_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
    number = 1 + sum(1 for _ in runs.iterdir())
    return runs / f"{number:02d}-{name.replace(' ', '-').replace('/', '-per-')}"


def _level(offer: Offer, result: LoadResult, summary: Summary, slo: Slo | None, folder: str) -> Level:
    look = _Look(summary, slo)
    for record in result.records():
        look.add(record)
    latency, completed = summary.latency, summary.completed
    return Level(
        name=offer.name,
        concurrency=offer.concurrency if offer.concurrency is not None else round(look.in_flight, 3),
        rate=offer.rate,
        requests=summary.requests,
        completed=completed,
        unfinished=summary.unfinished,
        errors=summary.errors,
        messages=summary.messages,
        duration_s=summary.window.seconds,
        output_tokens=look.output_tokens,
        input_tokens=summary.input_tokens,
        isl=round(summary.input_tokens / completed) if completed and summary.input_tokens else None,
        osl=round(look.due_tokens / completed) if completed else None,
        ended_early=summary.ended_early,
        counted_by="responses" if summary.counted_by.get("responses") else "server",
        output_tokens_per_s=summary.output_tokens_per_s.value,
        output_tokens_per_s_ci=summary.output_tokens_per_s.ci,
        requests_per_s=summary.requests_per_s.value,
        goodput_per_s=summary.goodput_per_s.value if summary.goodput_per_s else None,
        good_share=look.good_share if slo else None,
        good_tokens_per_s=look.good_tokens / summary.window.seconds if slo else None,
        ttft_ms=latency.get("ttft_ms"),
        tpot_ms=latency.get("tpot_ms"),
        itl_ms=latency.get("itl_ms"),
        e2e_ms=latency.get("e2e_ms"),
        spread={name: _spread(summary.histograms[name]) for name in _SPREADS if name in summary.histograms},
        least_ttft_ms=look.least_ttft_ns / 1e6 if look.least_ttft_ns is not None else None,
        repeats=(summary.output_tokens_per_s.value,),
        reason=result.reason,
        window=asdict(summary.window),
        client=asdict(result.client),
        warnings=result.warnings,
        impossible=tuple(look.impossible()),
        folder=folder,
    )


def _spread(histogram: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """Where a cumulative distribution has risen by another hundredth."""
    rows: list[tuple[float, float]] = []
    seen = 0.0
    for upper_ms, weight in histogram["buckets_ms"]:
        before, seen = seen, seen + weight / histogram["count"]
        if int(100 * before) != int(100 * seen) or not rows:
            rows.append((upper_ms, seen))
    return tuple(rows)


class _Look:
    """Sums over the records of a run; impossible answers are looked for in all of it, the rest in what counts."""

    def __init__(self, summary: Summary, slo: Slo | None) -> None:
        self._slo = slo
        self._low, self._high = round(1e9 * summary.window.start_s), round(1e9 * summary.window.end_s)
        self.output_tokens = self.due_tokens = 0
        self.good_tokens = self._busy_ns = 0.0
        self.least_ttft_ns: int | None = None
        self._good = self._judged = 0
        self._too_long: list[Record] = []
        self._empty = self._early = 0

    @property
    def in_flight(self) -> float:
        """Mean number of requests in the air."""
        return self._busy_ns / (self._high - self._low)

    @property
    def good_share(self) -> float:
        """Requests within the SLO. One that was given up unfinished counts against it once it was too late."""
        return self._good / self._judged if self._judged else 0.0

    def add(self, record: Record) -> None:
        """Take one."""
        self._busy_ns += max(0.0, min(record.ended_ns, self._high) - max(record.scheduled_ns, self._low))
        if record.first_ns is not None:
            ttft = record.first_ns - record.sent_ns
            self.least_ttft_ns = ttft if self.least_ttft_ns is None else min(self.least_ttft_ns, ttft)
        due = self._low <= record.scheduled_ns <= self._high
        if self._slo is not None:
            self._judge(record, self._slo, due=due)
        if record.error is not None:
            return
        self.output_tokens += record.output_tokens
        self.due_tokens += record.output_tokens * due
        self._empty += record.output_tokens == 0
        self._early += record.first_ns is not None and record.first_ns <= record.sent_ns
        if record.output_tokens > record.asked_output:
            self._too_long.append(record)

    def impossible(self) -> list[str]:
        """One line for each kind."""
        lines = []
        if self._too_long:
            first = self._too_long[0]
            example = f"{first.output_tokens} of {first.asked_output}"
            lines.append(f"{len(self._too_long)} answers have more tokens than asked for ({example})")
        if self._empty:
            lines.append(f"{self._empty} answers ended without a single token")
        if self._early:
            lines.append(f"{self._early} answers came before their request was sent")
        return lines

    def _judge(self, record: Record, slo: Slo, *, due: bool) -> None:
        """Requests count where they were due, tokens where they came, as everywhere."""
        good = slo.met_by(record)
        if good:
            self.good_tokens += sum(tokens for _, tokens in record.tokens_between((self._low, self._high + 1)))
        if due and (record.error != UNFINISHED or _too_late(record, slo)):
            self._judged += 1
            self._good += good


def _too_late(record: Record, slo: Slo) -> bool:
    age_ns = record.ended_ns - record.scheduled_ns
    ttft_ns = record.ttft_ns if record.ttft_ns is not None else age_ns
    limits = slo.limits_ns
    return ttft_ns > limits.get("ttft", float("inf")) or age_ns > limits.get("e2e", float("inf"))
