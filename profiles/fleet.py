"""Reserved, on-demand and spot GPUs over an hourly demand trace, with spot interruptions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from profiles.cost import Worked
from trtllm_kit.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Market:
    """Dollars for a GPU hour of each kind, and how spot GPUs are lost."""

    on_demand: float
    reserved: float | None  # None: not offered
    spot: float | None
    interruptions_per_hour: float = 0.05  # of one spot GPU
    recovery_minutes: float = 10.0  # until its replacement serves; an on-demand GPU stands in

    @property
    def spot_lost_share(self) -> float:
        """The share of a spot hour in which an on-demand GPU stands in."""
        return min(1.0, self.interruptions_per_hour * self.recovery_minutes / 60)

    @property
    def spot_effective(self) -> float | None:
        """Spot with its stand-ins: what an hour of service costs on spot GPUs."""
        return None if self.spot is None else self.spot + self.spot_lost_share * self.on_demand


@dataclass(frozen=True, kw_only=True)
class Mix:
    """GPUs of each kind over the trace; `gpu_hours` of spot do not count its stand-ins."""

    reserved_gpus: int
    gpu_hours: dict[str, float]  # by kind; reserved ones are paid whether they serve or not
    usd: float
    usd_on_demand_only: float
    served_gpu_hours: float
    worked: tuple[Worked, ...]

    @property
    def usd_per_served_gpu_hour(self) -> float:
        """The blended rate."""
        return self.usd / self.served_gpu_hours


def gpus_needed(demand_tokens_per_s: Sequence[float], gpu_tokens_per_s: float, headroom: float = 0.0) -> list[int]:
    """Whole GPUs for each hour; `headroom` 0.2 keeps a fifth more than the demand."""
    if not gpu_tokens_per_s > 0 or not 0 <= headroom < math.inf:
        raise SpecError(
            f"{gpu_tokens_per_s} tokens/s of a GPU and a headroom of {headroom}",
            expected="a speed above 0 and a headroom of 0 or more",
            fix="give what a GPU does",
        )
    if any(not 0 <= demand < math.inf for demand in demand_tokens_per_s):
        raise SpecError(
            "the trace has a demand below 0, or none at all", expected="tokens/s of each hour", fix="mend the trace"
        )
    return [math.ceil(demand * (1 + headroom) / gpu_tokens_per_s - 1e-9) for demand in demand_tokens_per_s]


def best_mix(gpus: Sequence[int], market: Market, *, spot_share: float = 0.0) -> Mix:
    """The cheapest mix, by trying every number of reservations.

    `gpus` are those needed in each hour; up to `spot_share` of those beyond the reservations are spot.
    """
    if not gpus or max(gpus) <= 0:
        raise SpecError("the trace has no hour with any demand", expected="a figure above 0", fix="check its unit")
    if not 0 <= spot_share <= 1:
        raise SpecError(f"spot_share is {spot_share}", expected="0 to 1", fix="0.3 is three in ten")
    effective = market.spot_effective
    use_spot = spot_share if effective is not None and effective < market.on_demand else 0.0
    most = 0 if market.reserved is None else max(gpus)
    hours_of = Counter(gpus)
    return min((_count(hours_of, market, reserved, use_spot) for reserved in range(most + 1)), key=lambda mix: mix.usd)


def blend(shares: Mapping[str, float], prices: Mapping[str, float]) -> Worked:
    """The rate of a fixed mix by kind, e.g. 70 % reserved, 20 % on-demand, 10 % spot."""
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-9) or any(share < 0 for share in shares.values()):
        raise SpecError(
            f"the shares add up to {sum(shares.values()):g}", expected="shares that add up to 1", fix="correct them"
        )
    terms = " + ".join(f"{share:.0%} × ${prices[kind]:g}" for kind, share in shares.items())
    return Worked("blended rate", sum(share * prices[kind] for kind, share in shares.items()), "$/GPU-h", terms)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _count(hours_of: Mapping[int, int], market: Market, reserved: int, use_spot: float) -> Mix:
    """What it costs to reserve so many; `hours_of` says in how many hours each number of GPUs is needed."""
    hours, served = sum(hours_of.values()), sum(need * count for need, count in hours_of.items())
    beyond = {need - reserved: count for need, count in hours_of.items() if need > reserved}
    spot = float(sum(math.floor(use_spot * need) * count for need, count in beyond.items()))
    stand_in = spot * market.spot_lost_share
    rented = float(sum(need * count for need, count in beyond.items())) - spot
    lines = [
        Worked("on-demand", rented * market.on_demand, "$", f"{rented:,.0f} GPU-h × ${market.on_demand:g}"),
    ]
    if reserved and market.reserved is not None:
        text = f"{reserved} GPUs × {hours:,} h × ${market.reserved:g}"
        lines.insert(0, Worked("reserved", reserved * hours * market.reserved, "$", text))
    if spot and market.spot is not None:
        lines.append(Worked("spot", spot * market.spot, "$", f"{spot:,.0f} GPU-h × ${market.spot:g}"))
        text = (
            f"{spot:,.0f} GPU-h × {market.interruptions_per_hour:g}/h × {market.recovery_minutes:g}/60 h"
            f" × ${market.on_demand:g}"
        )
        lines.append(Worked("stand-ins for interrupted spot", stand_in * market.on_demand, "$", text))
    return Mix(
        reserved_gpus=reserved,
        gpu_hours={"reserved": float(reserved * hours), "on_demand": rented + stand_in, "spot": spot},
        usd=sum(line.value for line in lines),
        usd_on_demand_only=served * market.on_demand,
        served_gpu_hours=float(served),
        worked=tuple(lines),
    )
