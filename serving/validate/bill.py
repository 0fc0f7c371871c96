"""What a million tokens cost at the measured speed, and what those cost that met the SLO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from profiles import cost
from profiles.cost import Worked
from serving.validate.levels import Level


def bill(levels: Sequence[Level], hour: Worked | None, why_no_price: str) -> Mapping[str, Any]:
    """Of the fastest level, and of the one with the most good tokens; `why_no_price` stands where there is no price."""
    if hour is None:
        return {"why_not": why_no_price}
    fastest = max(levels, key=lambda level: level.output_tokens_per_s, default=None)
    found: dict[str, Any] = {"usd_per_hour": hour.value, "hour": str(hour)}
    if fastest is not None and fastest.output_tokens_per_s > 0:
        found["per_million"] = _line(fastest, hour, fastest.output_tokens_per_s)
    good = max(levels, key=lambda level: level.good_tokens_per_s or 0.0, default=None)
    if good is not None and good.good_tokens_per_s:
        found["per_million_within_slo"] = _line(good, hour, good.good_tokens_per_s)
    return found


def _line(level: Level, hour: Worked, tokens_per_s: float) -> dict[str, Any]:
    price = cost.per_million(hour.value, tokens_per_s)
    return {"usd": price.value, "level": level.name, "formula": price.formula}
