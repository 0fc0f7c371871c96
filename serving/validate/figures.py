"""The report's charts: what latency each throughput costs, how latencies are spread, and what happened when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.validate.charts import Series, line_chart
from serving.validate.page_style import COLOURS
from serving.validate.timeline import Timeline, read_timeline

Level = Mapping[str, Any]

_CURVES = (("ttft_ms", "Time to first token"), ("tpot_ms", "Time per output token"))
_QUANTILES = (("p50", "a"), ("p95", "b"), ("p99", "c"))
_SPREADS = (("ttft_ms", "Time to first token"), ("itl_ms", "Gap between tokens"))
_PANELS = (
    (
        "Tokens over time",
        "per second",
        (("tokens_per_s", "output tokens", "a"), ("failed_per_s", "failed requests", "e")),
    ),
    (
        "Batch",
        "requests, as the server counts them",
        (("batch", "generating", "a"), ("active", "active", "b"), ("waiting", "waiting", "c")),
    ),
    ("KV cache", "% of blocks in use", (("kv_percent", "used", "d"),)),
    ("GPU power", "W, all GPUs", (("power_w", "power", "b"),)),
    ("GPU utilization", "%, mean of all GPUs", (("utilization_percent", "utilization", "a"),)),
)


def curves(levels: Sequence[Level]) -> str:
    """Latency over throughput, one point per level, from the lowest load to the highest."""
    known = _by_load(levels)
    if not known:
        return ""
    charts = [_curve(known, key, title) for key, title in _CURVES]
    return f'<h2>Latency and throughput</h2><section class="charts">{"".join(charts)}</section>'


def distributions(levels: Sequence[Level]) -> str:
    """Share of values below each latency, one line per level: the first, the last, and some between."""
    shown = _some(_by_load(levels))
    charts = [_spread(shown, key, title) for key, title in _SPREADS]
    if not any(charts):
        return ""
    return f'<h2>Distributions</h2><section class="charts">{"".join(charts)}</section>'


def timelines(levels: Sequence[Level], results: Path) -> str:
    """Every level over time; that of the highest throughput is open."""
    known = [(level, line) for level in levels if (line := read_timeline(results / level["folder"])) is not None]
    if not known:
        return ""
    best = max(known, key=lambda pair: float(pair[0]["output_tokens_per_s"]))[0]
    parts = [
        f"<details{' open' if level is best else ''}><summary>{level['name']}: {level['window']['why']}</summary>"
        f'<section class="charts">{_over_time(line)}</section></details>'
        for level, line in known
    ]
    return f"<h2>Over time</h2>{''.join(parts)}"


def _by_load(levels: Sequence[Level]) -> list[Level]:
    """Those that measured anything, the lightest first; of a level that was run twice the last one."""
    known = {level["name"]: level for level in levels if level["ttft_ms"]}
    return sorted(known.values(), key=_load)


def _load(level: Level) -> float:
    return float(level["rate"] or level["concurrency"])


def _curve(levels: Sequence[Level], key: str, title: str) -> str:
    names = tuple(f"{_load(level):g}" for level in levels)
    lines = [
        Series(
            name=quantile,
            css=css,
            points=tuple((level["output_tokens_per_s"], level[key][quantile]) for level in levels if level[key]),
            labels=names if quantile == "p99" and all(level[key] for level in levels) else (),
        )
        for quantile, css in _QUANTILES
    ]
    what = "req/s" if all(level["rate"] for level in levels) else "concurrency"
    return line_chart(title, "output tokens/s", f"ms; points are labelled with the {what}", lines)


def _spread(levels: Sequence[tuple[Level, str]], key: str, title: str) -> str:
    lines = [
        Series(name=level["name"], css=css, points=_percent(level["spread"][key]), dots=False)
        for level, css in levels
        if key in level["spread"]
    ]
    return line_chart(title, "ms", "% of values that are lower", lines, log_x=True)


def _some(levels: Sequence[Level]) -> list[tuple[Level, str]]:
    """As many as there are colours, evenly chosen."""
    count = min(len(levels), len(COLOURS))
    at = [round(number * (len(levels) - 1) / max(count - 1, 1)) for number in range(count)]
    return [(levels[place], css) for place, css in zip(at, COLOURS, strict=False)]


def _over_time(line: Timeline) -> str:
    charts = []
    for title, unit, rows in _PANELS:
        known = [Series(name=name, css=css, points=line[key], dots=False) for key, name, css in rows if key in line]
        charts.append(line_chart(title, "seconds", unit, known))
    return "".join(charts)


def _percent(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((at, 100 * share) for at, share in points)
