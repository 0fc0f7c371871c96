"""The configuration to take for a load, and why: the cheapest of those that meet its limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from profiles import capacity, operating, support
from profiles.capacity import Demand, Space
from profiles.fit_check import check_fits
from profiles.ledger import ledger
from profiles.operating import Point
from profiles.prices import Kind, PriceBook
from trtllm_kit.errors import PerformanceError, SpecError

_AS_CHEAP = 1.02  # published rows repeat to about as much, so a smaller difference says nothing


@dataclass(frozen=True, kw_only=True)
class CapacityPlan:
    """What could serve a load."""

    demand: Demand
    best: tuple[Point, ...]  # of each configuration, cheapest first, then fastest for each GPU
    front: tuple[Point, ...]  # Pareto front over all concurrencies
    every: tuple[Point, ...]
    chosen: Point
    why: str


def plan(
    space: Space, demand: Demand, book: PriceBook, kind: Kind = "on_demand", provider: str | None = None
) -> CapacityPlan:
    """Weigh every configuration.

    Raises SpecError when none is possible, FitError (with the ledger) when none fits, PerformanceError (with the
    nearest miss) when none meets the limits.
    """
    found = list(capacity.configurations(space, demand))
    weighed = operating.weigh(found, demand, lambda sku: book.cheapest(sku, kind, provider))
    best = [operating.best_point(points, demand) for points in weighed]
    every = [point for points in weighed for point in points]
    if not best:
        raise _nothing_fits(space, demand)
    best.sort(key=_rank)
    meeting = [point for point in best if demand.excess(point.seen) <= 1]
    if not meeting:
        raise _missed(best, demand)
    chosen = _choose(meeting)
    return CapacityPlan(
        demand=demand,
        best=tuple(best),
        front=tuple(operating.pareto(every)),
        every=tuple(every),
        chosen=chosen,
        why=_why(chosen, meeting, demand),
    )


def _rank(point: Point) -> tuple[bool, float, float]:
    usd = point.usd_per_million
    return usd is None, usd or 0.0, -point.tokens_per_s_per_gpu


def _choose(meeting: Sequence[Point]) -> Point:
    """The first; or, of those that are as cheap for all that a model can tell, the one on the fewest GPUs."""
    least = meeting[0].usd_per_million
    if least is None:
        return meeting[0]
    alike = [point for point in meeting if (point.usd_per_million or math.inf) <= least * _AS_CHEAP]
    return min(alike, key=lambda point: (point.configuration.gpus, point.usd_per_million))


def _why(chosen: Point, meeting: Sequence[Point], demand: Demand) -> str:
    limits = limits_text(demand)
    count = f"{len(meeting)} configurations" if len(meeting) > 1 else "the only configuration"
    reason = f"of {count} that fit{f' and meet {limits}' if limits else ''}"
    if chosen.usd_per_million is None:
        text = f"the most tokens/s for each GPU {reason}; no price is known for any of them"
    else:
        text = f"the cheapest {reason}: ${chosen.usd_per_million:.3f}/M output tokens"
        if chosen is not meeting[0]:
            text += f", and within {_AS_CHEAP - 1:.0%} of {meeting[0].configuration} on fewer GPUs"
    other = next((point for point in meeting if point.configuration.sku.id != chosen.configuration.sku.id), None)
    if other is not None and chosen.usd_per_million and other.usd_per_million:
        text += (
            f"; of other SKUs {other.configuration} is next at ${other.usd_per_million:.3f}/M"
            f" ({other.usd_per_million / chosen.usd_per_million - 1:+.0%})"
        )
    if not chosen.seen.output_tokens_per_s.calibrated:
        text += "; uncalibrated: no measurement of that architecture stands behind it"
    cut = (point.configuration.sku for point in meeting if point.price is None)
    unpriced = sorted({sku.whole_id or sku.id for sku in cut})
    if unpriced and chosen.price is not None:
        text += f"; without a known price and so not compared: {', '.join(unpriced)}"
    return text


def limits_text(demand: Demand) -> str:
    """The limits of a demand in words; empty when there are none."""
    limits = (("TTFT", demand.ttft_ms), ("TPOT", demand.tpot_ms))
    return " and ".join(f"{name} <= {limit:g} ms" for name, limit in limits if limit is not None)


def _missed(best: Sequence[Point], demand: Demand) -> PerformanceError:
    nearest = min(best, key=lambda point: demand.excess(point.seen))
    pairs = (("TTFT", nearest.seen.ttft_ms, demand.ttft_ms), ("TPOT", nearest.seen.tpot_ms, demand.tpot_ms))
    misses = [
        f"{name} {seen.value:,.4g} ms ({seen.low:,.4g} to {seen.high:,.4g}),"
        f" {seen.value / limit - 1:.0%} over {limit:g} ms"
        for name, seen, limit in pairs
        if limit is not None and seen.value > limit
    ]
    return PerformanceError(
        f"none of {len(best)} configurations meets {limits_text(demand)}; the nearest is {nearest.configuration} with "
        f"{nearest.concurrency} concurrent: {'; '.join(misses)}",
        expected=limits_text(demand),
        fix="relax the limit, shorten the prompt, or allow more (--sku any, --max-gpus, other --precision)",
    )


def _nothing_fits(space: Space, demand: Demand) -> Exception:
    """The error for the placement that lacks the fewest bytes, with its ledger."""
    places = [place for place, *_ in capacity.placements(space, demand)]
    if not places:
        return _impossible(space)
    nearest = min(places, key=lambda place: ledger(place).short_bytes)
    check_fits(nearest)
    raise AssertionError("what fits would have been a configuration")


def _impossible(space: Space) -> Exception:
    known = [sku for sku in space.skus if sku.bandwidth_gbs is not None]
    if not known:
        unknown = [sku.id for sku in space.skus]
        return SpecError(
            f"the memory bandwidth of {', '.join(unknown)} is not confirmed, so nothing can be predicted",
            expected="a SKU with its figures in the table",
            fix="see `trtllm-kit sku list`",
        )
    precision = space.precisions[0] if space.precisions else "bf16"
    kv_dtype = space.kv_dtype or capacity.usual_kv_dtype(precision)
    support.check("tensorrt", precision, kv_dtype, known[0], space.trtllm_version)
    raise AssertionError("what is possible and has a bandwidth would have been a placement")
