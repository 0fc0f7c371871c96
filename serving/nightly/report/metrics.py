"""The figures of a comparison: what each is called, and which way is worse. Others are shown under their own names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`prometheus` is (name, factor to the base unit), where a cell's figure is exported."""

    key: str
    title: str
    unit: str
    higher_is_better: bool = False
    prometheus: tuple[str, float] | None = None


METRICS = {
    metric.key: metric
    for metric in (
        Metric(
            key="output_tokens_per_s",
            title="throughput",
            unit="tokens/s",
            higher_is_better=True,
            prometheus=("output_tokens_per_second", 1),
        ),
        Metric(
            key="usd_per_million_tokens",
            title="cost",
            unit="$/M tokens",
            prometheus=("cost_usd_per_million_tokens", 1),
        ),
        Metric(key="ttft_ms", title="TTFT", unit="ms", prometheus=("time_to_first_token_seconds", 1e-3)),
        Metric(key="tpot_ms", title="TPOT", unit="ms", prometheus=("time_per_output_token_seconds", 1e-3)),
        Metric(key="cold_start_s", title="cold start", unit="s", prometheus=("cold_start_seconds", 1)),
        Metric(key="perplexity", title="perplexity", unit=""),
        Metric(key="accuracy", title="next-token accuracy", unit="", higher_is_better=True),
        Metric(key="agreement", title="agreement", unit="", higher_is_better=True),
    )
}
"""By key, in the order in which they are shown."""


def metric_of(key: str, unit: str = "") -> Metric:
    """The row of a metric; for one that is not in the table its own name, lower being better."""
    return METRICS.get(key) or Metric(key=key, title=key.replace("_", " "), unit=unit)


def amount(value: float, unit: str = "") -> str:
    """A value with its unit, four digits: ``1,010 tokens/s``, ``$0.41/M tokens``."""
    money = unit.startswith("$")
    text = _number(value, "$" if money else "")
    return f"{text}{unit[1:]}" if money else f"{text} {unit}".rstrip()


def step(before: float, after: float, unit: str) -> str:
    """From one value to another: ``1,200 → 1,010 tokens/s``."""
    return f"{_number(before, '$' if unit.startswith('$') else '')} → {amount(after, unit)}"


def percent(change: float) -> str:
    """A relative change with its sign: ``−15.8 %``."""
    return f"{change:+.1%}".replace("-", "−").replace("%", " %")


def _number(value: float, sign: str) -> str:
    return f"{sign}{value:,.0f}" if abs(value) >= 1000 else f"{sign}{value:.4g}"
