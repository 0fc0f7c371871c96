"""The figures that two runs are compared by: one row each, with which way is worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`latency` and `quantile` ("mean", "p50", ...) name a value of a distribution; without them `key` is a rate."""

    key: str
    name: str
    unit: str
    latency: str | None = None
    quantile: str = ""
    share: float = 0.0

    @property
    def higher_is_better(self) -> bool:
        """Rates are better when they are high, latencies when they are low."""
        return self.latency is None

    def of(self, level: Mapping[str, Any]) -> tuple[float, float | None] | None:
        """(value, half of its 95 % interval) in a level's JSON; None where the level has none."""
        if self.latency is None:
            value = level.get(self.key)
            return None if not value else (float(value), level.get(f"{self.key}_ci"))
        found = level.get(self.latency) or {}
        value = found.get(self.quantile)
        return None if not value else (float(value), (found.get("ci") or {}).get(self.quantile))


def _latency(name: str, words: str, quantile: str) -> Metric:
    share = 0.5 if quantile == "mean" else float(quantile.removeprefix("p")) / 100
    key, title = f"{name}.{quantile}", f"{words} {quantile}"
    return Metric(key=key, name=title, unit="ms", latency=name, quantile=quantile, share=share)


METRICS = (
    Metric(key="output_tokens_per_s", name="output tokens/s", unit="tok/s"),
    Metric(key="requests_per_s", name="requests/s", unit="req/s"),
    *(
        _latency(name, words, quantile)
        for name, words in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("itl_ms", "ITL"), ("e2e_ms", "end to end"))
        for quantile in ("mean", "p50", "p99")
    ),
)
