"""What a validation offers, level by level: closed loops by default, an open loop or a trace when asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from builder.plan import ValidationPlan
from serving.client.request import Request
from serving.load.arrivals import Arrivals, ClosedLoop, OpenLoop, Replay
from serving.load.generator import Conditions
from serving.load.lengths import Lengths
from serving.load.run import LoadPlan
from serving.load.slo import Slo
from serving.load.until import Until
from serving.load.workload import NO_END, Given, Synthetic, Workload

SEED = 20_240_607
OPEN_LOOP_S = 30.0
"""How long an open loop lasts where nobody says: a count of requests would end it before any queue has built up."""

_WARM_UP_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Load:
    """All that the levels share. What stands in `plan` are concurrencies, lengths, requests and limits."""

    plan: ValidationPlan
    rates: tuple[float, ...] = ()  # requests per second; closed loops where there are none
    arrivals: str = "poisson"
    burstiness: float = 1.0
    duration_s: float | None = None
    precision: float | None = None
    repeats: int = 1
    seed: int = SEED
    input_len: Lengths | None = None  # None: the plan's
    output_len: Lengths | None = None
    prefix_share: float = 0.0
    prefix_pool: int = 1
    turns: int = 1
    given: Given | None = None  # prompts of a file
    replay: Replay | None = None  # with `given`: the arrival times of a trace
    slo: Slo | None = None
    timeout_s: float = 300.0
    metrics_url: str | None = None

    @property
    def fresh_prompts(self) -> bool:
        """Whether no prompt has a beginning that the server may have in its cache."""
        return self.given is None and not self.prefix_share and self.turns == 1

    def offers(self) -> Iterator[Offer]:
        """One for each level."""
        if self.replay is not None:
            yield Offer(name="trace", arrivals=self.replay, seed=self.seed)
        elif self.rates:
            yield from (self.open_loop(rate) for rate in self.rates)
        else:
            yield from (self.closed_loop(concurrency) for concurrency in self.plan.concurrencies)

    def closed_loop(self, concurrency: int) -> Offer:
        """A level of so many users."""
        return Offer(
            name=f"concurrency {concurrency}",
            arrivals=ClosedLoop(concurrency=concurrency),
            concurrency=concurrency,
            seed=self.seed + concurrency,
        )

    def open_loop(self, rate: float) -> Offer:
        """A level of so many requests per second."""
        seed = self.seed + round(1000 * rate)
        loop = OpenLoop(rate=rate, kind=self.arrivals, burstiness=self.burstiness, seed=seed)
        return Offer(name=f"{rate:g} req/s", arrivals=loop, rate=rate, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One level: who comes when."""

    name: str
    arrivals: Arrivals
    seed: int
    concurrency: int | None = None
    rate: float | None = None

    def again(self, number: int) -> Offer:
        """The same load with other prompts and gaps, so that a repeat is independent and finds nothing in the cache."""
        seed, arrivals = self.seed + 1_000_003 * number, self.arrivals
        if isinstance(arrivals, OpenLoop):
            arrivals = replace(arrivals, seed=seed)
        return replace(self, seed=seed, arrivals=arrivals)

    def plan(self, load: Load, *, tokenizer_dir: Path | None, stream: bool) -> LoadPlan:
        """What the generator runs. A counted number of requests is measured whole, a duration in its steady part."""
        until = self._until(load)
        return LoadPlan(
            workload=self._workload(load, tokenizer_dir),
            arrivals=self.arrivals,
            until=until,
            conditions=self._conditions(load, stream),
            slo=load.slo,
            whole=until.duration_s is None,
            metrics_url=load.metrics_url,
        )

    def warm_up(self, load: Load, *, tokenizer_dir: Path | None, stream: bool) -> LoadPlan | None:
        """A few short answers that are not counted: they open connections and wake the engine.

        Their prompts are none of those measured, or these would find their prefixes in the cache. An open loop has its
        beginning cut off instead.
        """
        if self.concurrency is None:
            return None
        words = _lengths(load.input_len, load.plan.input_len)
        short = Lengths(kind="", first=min(load.plan.output_len, _WARM_UP_TOKENS))
        return LoadPlan(
            workload=Synthetic(input_len=words, output_len=short, seed=-self.seed, tokenizer_dir=tokenizer_dir),
            arrivals=self.arrivals,
            until=Until(requests=self.concurrency),
            conditions=self._conditions(load, stream),
            whole=True,
        )

    def _until(self, load: Load) -> Until:
        if self.rate is not None:
            return Until(duration_s=load.duration_s or OPEN_LOOP_S, precision=load.precision)
        if load.duration_s is not None:
            return Until(duration_s=load.duration_s, precision=load.precision)
        if load.replay is not None:
            return Until(requests=len(load.replay.at_s))
        return Until(requests=max(load.plan.requests_per_level, self.concurrency or 1))

    def _workload(self, load: Load, tokenizer_dir: Path | None) -> Workload:
        if load.given is not None:
            return load.given
        return Synthetic(
            input_len=_lengths(load.input_len, load.plan.input_len),
            output_len=_lengths(load.output_len, load.plan.output_len),
            seed=self.seed,
            tokenizer_dir=tokenizer_dir,
            prefix_share=load.prefix_share,
            prefix_pool=load.prefix_pool,
            turns=load.turns,
        )

    def _conditions(self, load: Load, stream: bool) -> Conditions:
        name = self.name.replace(" ", "-").replace("/", "-per-")
        template = Request(stream=stream, top_k=1, end_id=NO_END, request_id=f"load-{name}-")
        return Conditions(template=template, timeout_s=load.timeout_s, seed=self.seed)


def _lengths(asked: Lengths | None, tokens: int) -> Lengths:
    return asked or Lengths(kind="", first=tokens)
