"""From rounds to what they say of each metric of speed, against the rule's margins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from profiles import cost
from serving.nightly.ab.limits import judged
from serving.nightly.ab.rounds import Round, Visit
from serving.nightly.ab.rule import Rule
from serving.nightly.ab.sequence import median_interval, pairs_to_tell
from serving.nightly.record import Figure

COLD_START, THROUGHPUT, COST = "cold_start_s", "output_tokens_per_s", "usd_per_million_tokens"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`margin`: the largest relative change for the worse that a rule allows, given the incumbent's value."""

    name: str
    unit: str
    margin: Callable[[Rule, float], float]
    higher_is_better: bool = False

    @property
    def turn(self) -> int:
        """The sign that makes a logarithm grow with what is worse."""
        return -1 if self.higher_is_better else 1


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "ttft_ms": Metric(name="TTFT", unit="ms", margin=lambda rule, _: rule.max_slowdown_ttft or rule.max_slowdown),
        "tpot_ms": Metric(name="TPOT", unit="ms", margin=lambda rule, _: rule.max_slowdown_tpot or rule.max_slowdown),
        THROUGHPUT: Metric(
            name="throughput",
            unit="tokens/s",
            margin=lambda rule, _: rule.max_slowdown_throughput or rule.max_slowdown,
            higher_is_better=True,
        ),
        COLD_START: Metric(
            name="cold start",
            unit="s",
            margin=lambda rule, seconds: max(rule.max_cold_start_increase, rule.cold_start_floor_s / seconds),
        ),
        COST: Metric(
            name="price", unit="$/M tokens", margin=lambda rule, _: rule.max_cost_increase or rule.max_slowdown
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A judged metric."""

    figure: Figure
    rounds: int
    beyond: int  # of the rounds, those in which the candidate was worse than the limit
    error: float  # of an end of the interval

    @property
    def rounds_to_tell(self) -> int | None:
        """How many in all would probably tell, where it is open; None: not in sight."""
        return pairs_to_tell(max(self.beyond, self.rounds - self.beyond), self.rounds, self.error)

    @property
    def words(self) -> str:
        """The row as a sentence."""
        figure, name = self.figure, METRICS[self.figure.metric].name
        assert figure.incumbent is not None and figure.change is not None and figure.limit is not None
        sure = "" if figure.low is None or figure.high is None else f", {figure.low:+.1%} to {figure.high:+.1%}"
        change = (
            f"{figure.candidate:,.4g} instead of {figure.incumbent:,.4g} {figure.unit} ({figure.change:+.1%}{sure})"
        )
        return f"{name} is {change}, the limit is {figure.limit:+.1%}"


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """One metric in one round. `slowdown`: log of how many times worse the candidate was."""

    candidate: float
    incumbent: float
    slowdown: float


def judge(rounds: Sequence[Round], rule: Rule, usd_per_hour: float | None) -> list[Row]:
    """Every metric that the rounds measured. The intervals hold together, at every look, with the rule's confidence."""
    measured = [set(_values(visit)) for each in rounds for visit in (each.candidate, each.incumbent)]
    keys = [key for key in METRICS if all(key in found for found in measured)]
    samples = {key: [_sample(key, each) for each in rounds] for key in keys}
    error = (1 - rule.confidence) / 2 / len(samples)
    if usd_per_hour is not None:
        # Dollars follow from throughput: they are no evidence of their own, and take no share of the error.
        samples[COST] = [_in_dollars(sample, usd_per_hour) for sample in samples[THROUGHPUT]]
    return [_row(key, found, rule, error) for key, found in samples.items()]


def alone(visit: Visit, usd_per_hour: float | None) -> list[Figure]:
    """The metrics of one side with nothing to compare them with."""
    values = _values(visit)
    if usd_per_hour is not None:
        values[COST] = cost.per_million(usd_per_hour, values[THROUGHPUT]).value
    return [Figure(metric=key, unit=METRICS[key].unit, candidate=value) for key, value in values.items()]


def _row(key: str, samples: Sequence[_Sample], rule: Rule, error: float) -> Row:
    metric, slowdowns = METRICS[key], [sample.slowdown for sample in samples]
    incumbent = statistics.median(sample.incumbent for sample in samples)
    limit = math.log1p(metric.margin(rule, incumbent))
    low, high = median_interval(slowdowns, error)
    ends = sorted((metric.turn * low, metric.turn * high))
    figure = Figure(
        metric=key,
        unit=metric.unit,
        candidate=statistics.median(sample.candidate for sample in samples),
        incumbent=incumbent,
        change=math.expm1(metric.turn * statistics.median(slowdowns)),
        low=_relative(ends[0]),
        high=_relative(ends[1]),
        limit=math.expm1(metric.turn * limit),
        status=judged(low, high, limit),
    )
    beyond = sum(slowdown > limit for slowdown in slowdowns)
    return Row(figure=figure, rounds=len(samples), beyond=beyond, error=error)


def _sample(key: str, played: Round) -> _Sample:
    """Of each block against its neighbour of the other side, then the median of these."""
    candidate, incumbent = _values(played.candidate)[key], _values(played.incumbent)[key]
    pairs = [(candidate, incumbent)]
    if key != COLD_START:
        pairs = [
            (one[key], other[key]) for one, other in zip(played.candidate.blocks, played.incumbent.blocks, strict=True)
        ]
    turn = METRICS[key].turn
    slowdown = statistics.median(turn * math.log(one / other) for one, other in pairs)
    return _Sample(candidate=candidate, incumbent=incumbent, slowdown=slowdown)


def _in_dollars(sample: _Sample, usd_per_hour: float) -> _Sample:
    return _Sample(
        candidate=cost.per_million(usd_per_hour, sample.candidate).value,
        incumbent=cost.per_million(usd_per_hour, sample.incumbent).value,
        slowdown=sample.slowdown,
    )


def _values(visit: Visit) -> dict[str, float]:
    """Medians over the blocks, of what all of them have, and how long it took to start."""
    keys = [key for key in visit.blocks[0] if all(key in block for block in visit.blocks)]
    medians = {key: statistics.median(block[key] for block in visit.blocks) for key in keys}
    return {**medians, COLD_START: visit.cold_start_s}


def _relative(logarithm: float) -> float | None:
    return math.expm1(logarithm) if math.isfinite(logarithm) else None
