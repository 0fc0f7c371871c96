"""How fast and how dear each configuration is at each concurrency, and which points no other beats."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from profiles.capacity import Configuration, Demand
from profiles.performance import Operating
from profiles.prices import Price
from profiles.skus import Sku

_CONCURRENCY_STEP = 4
_PARTS = 5  # of the step in which the limits end


@dataclass(frozen=True, kw_only=True)
class Point:
    """A configuration at one concurrency."""

    configuration: Configuration
    concurrency: int
    seen: Operating
    price: Price | None

    @property
    def tokens_per_s(self) -> float:
        """Output tokens/s of the replica."""
        return self.seen.output_tokens_per_s.value

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Of each whole GPU; MIG slices fill theirs."""
        return self.tokens_per_s / self.configuration.gpus

    @property
    def tokens_per_s_per_user(self) -> float:
        """How fast an answer is read out."""
        return 1000 / self.seen.tpot_ms.value

    @property
    def usd_per_hour(self) -> float | None:
        """Of the replica."""
        sizes = self.configuration.tp_size * self.configuration.pp_size
        return None if self.price is None else self.price.usd_per_gpu_hour * sizes

    @property
    def usd_per_million(self) -> float | None:
        """Dollars for a million output tokens."""
        return None if self.usd_per_hour is None else self.usd_per_hour * 1e6 / (3600 * self.tokens_per_s)


def weigh(found: Sequence[Configuration], demand: Demand, price_of: Callable[[Sku], Price | None]) -> list[list[Point]]:
    """The operating points of each configuration, from one user to a full batch, by rising concurrency.

    Each step has four times as many users; between the last step within the limits and the next there are more.
    """
    prices = {one.sku.id: price_of(one.sku) for one in found}
    steps = _points([(one, level) for one in found for level in _steps(one.max_batch_size)], demand, prices)
    by_one = [list(group) for _, group in itertools.groupby(steps, key=lambda point: id(point.configuration))]
    between = _points(
        [(points[0].configuration, level) for points in by_one for level in _between(points, demand)], demand, prices
    )
    further: dict[int, list[Point]] = {}
    for point in between:
        further.setdefault(id(point.configuration), []).append(point)
    return [
        sorted((*points, *further.get(id(points[0].configuration), ())), key=lambda point: point.concurrency)
        for points in by_one
    ]


def best_point(points: Sequence[Point], demand: Demand) -> Point:
    """Of one configuration: the fastest point within the limits, else the nearest to them."""
    inside = [point for point in points if demand.excess(point.seen) <= 1]
    if inside:
        return max(inside, key=lambda point: point.tokens_per_s)
    return min(points, key=lambda point: demand.excess(point.seen))


def pareto(points: Iterable[Point]) -> list[Point]:
    """Those that no other beats in both tokens/s/GPU and tokens/s/user; by falling tokens/s/GPU."""
    front: list[Point] = []
    for point in sorted(points, key=lambda row: (-row.tokens_per_s_per_gpu, -row.tokens_per_s_per_user)):
        if not front or point.tokens_per_s_per_user > front[-1].tokens_per_s_per_user:
            front.append(point)
    return front


def _points(
    asked: Sequence[tuple[Configuration, int]], demand: Demand, prices: Mapping[str, Price | None]
) -> list[Point]:
    """All at once: the model computes with arrays, so thousands of questions cost little more than one."""
    if not asked:
        return []
    from profiles.performance.columns import Question
    from profiles.performance.model import predict

    answers = predict([Question(one.setup, demand.isl, demand.osl, concurrency=level) for one, level in asked])
    return [
        Point(configuration=one, concurrency=level, seen=answer.operating, price=prices[one.sku.id])
        for (one, level), answer in zip(asked, answers, strict=True)
    ]


def _steps(most: int) -> list[int]:
    levels = [1]
    while levels[-1] < most:
        levels.append(min(levels[-1] * _CONCURRENCY_STEP, most))
    return levels


def _between(points: Sequence[Point], demand: Demand) -> list[int]:
    """Further levels where the limits end: none when the last step is within them, or the first is not."""
    inside = [point.concurrency for point in points if demand.excess(point.seen) <= 1]
    beyond = [point.concurrency for point in points if inside and point.concurrency > inside[-1]]
    if not beyond:
        return []
    low, high = inside[-1], beyond[0]
    levels = {round(low * (high / low) ** (part / _PARTS)) for part in range(1, _PARTS)}
    return sorted(levels - {low, high})
