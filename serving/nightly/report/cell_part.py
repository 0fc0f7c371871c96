"""What the page says of one cell: decision and reasons, figures with intervals, what changed, stages, trend, log."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from serving.nightly.record import CellResult, Figure
from serving.nightly.report.metrics import amount, metric_of, percent, step
from serving.nightly.report.pictures import STATUS_CSS, interval, spark, stage_bars, whisker
from serving.nightly.report.states import State
from serving.nightly.report.summary import Summary, duration, words_of

_TREND = ("output_tokens_per_s", "usd_per_million_tokens")
_TAIL_LINES = 25


def cell_part(summary: Summary, identifier: str, log: str | None) -> str:
    """One section. `log` is the text of the cell's log, which lies beside the page as `logs/<identifier>.log`."""
    state, result = summary.night.states[identifier], summary.night.results[identifier]
    parts = [f'<h3><b class="{state.css}">{state.symbol}</b> {escape(identifier)}</h3>']
    parts.append(f"<p>{escape(words_of(state, result))}</p>")
    if result is not None:
        parts += [
            _items(reason for reason in result.reasons if reason not in result.words),
            _facts(result),
            _part("What changed", _items(result.changes)),
            _figures(result),
            _stages(result, opened=state.exit_code != 0),
        ]
    parts += [_part("Last nights, in service", trends(summary, identifier, fewest=2)), _log(identifier, log, state)]
    return f'<section class="cell" id="{escape(identifier)}">{"".join(parts)}</section>'


def trends(summary: Summary, identifier: str, *, fewest: int = 1) -> str:
    """Throughput and cost of the build in service over the last nights, where at least so many measured them."""
    known = ((summary.trend(identifier, name), metric_of(name).unit) for name in _TREND)
    return "".join(spark(values, unit) for values, unit in known if len(values) >= fewest)


def _facts(result: CellResult) -> str:
    rows = (
        ("stopped in", result.stage),
        ("exit code", result.exit_code or None),
        ("took", duration(result.seconds) if result.seconds else None),
        ("on", result.node),
        ("attempts", result.attempts if result.attempts > 1 else None),
        ("built", result.artifact and result.artifact[:12]),
        ("in service", result.current and result.current[:12]),
        ("size", result.size_bytes and _size(result.size_bytes)),
    )
    known = (f"{name} <b>{escape(str(value))}</b>" for name, value in rows if value)
    return f'<p class="dim">{" · ".join(known)}</p>'


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _figures(result: CellResult) -> str:
    if all(figure.incumbent is None for figure in result.figures):
        values = (f"{metric_of(one.metric).title} {amount(one.candidate, one.unit)}" for one in result.figures)
        return _part("Measured", f"<p>{escape(' · '.join(values))}</p>" if result.figures else "")
    rows = "".join(map(_figure, result.figures))
    head = (
        "<tr><th></th><th>in service → new</th><th>change, 95 %</th><th>allowed</th>"
        '<th class="axis"><span>better</span><span>worse</span></th><th></th></tr>'
    )
    table = f'<div class="scroll"><table class="figures">{head}{rows}</table></div>'
    return _part("Against what is in service", table)


def _figure(figure: Figure) -> str:
    metric = metric_of(figure.metric, figure.unit)
    old, new = figure.incumbent, figure.candidate
    values = amount(new, figure.unit) if old is None else step(old, new, figure.unit)
    change = "" if figure.change is None else f"{percent(figure.change)}<br><small>{interval(figure)}</small>"
    worse = -1 if metric.higher_is_better else 1
    limit = "" if figure.limit is None else percent(worse * abs(figure.limit))
    return (
        f"<tr><td>{escape(metric.title)}</td><td>{escape(values)}</td><td>{change}</td>"
        f'<td class="allowed">{limit}</td><td class="axis">{whisker(figure)}</td>'
        f'<td class="{STATUS_CSS[figure.status]}">{figure.status}</td></tr>'
    )


def _stages(result: CellResult, *, opened: bool) -> str:
    if not result.stages:
        return ""
    return f"<details{' open' if opened else ''}><summary>stages</summary>{stage_bars(result.stages)}</details>"


def _log(identifier: str, log: str | None, state: State) -> str:
    if log is None:
        return ""
    link = f'<p><a href="logs/{escape(identifier)}.log">whole log</a></p>'
    if not state.exit_code:
        return link
    tail = escape("\n".join(log.splitlines()[-_TAIL_LINES:]))
    return f"<details><summary>end of its log</summary><pre>{tail}</pre></details>{link}"


def _part(title: str, inner: str) -> str:
    return f"<h4>{title}</h4>{inner}" if inner else ""


def _items(lines: Iterable[str]) -> str:
    rows = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{rows}</ul>" if rows else ""
