"""Small pictures as inline SVG and HTML; all text stands beside them, so that it keeps its size on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from serving.nightly.record import Figure, StageTime
from serving.nightly.report.metrics import amount, metric_of, percent
from serving.nightly.report.nights import Night
from serving.nightly.report.summary import duration

_WIDTH, _HEIGHT, _MARGIN = 200, 26, 6
_LIMITS_SHOWN = 2.5
"""A whisker's axis ends at so many times its limit, so that limits stand below each other."""

STATUS_CSS = {"good": "pass", "worse": "fail", "open": "warn", "shown": "skipped"}
"""Class of the page's style by the status of a figure."""


def whisker(figure: Figure) -> str:
    """The change with its interval: right of the middle is worse, the dashed line is the limit."""
    if figure.change is None:
        return ""
    worse = -1 if metric_of(figure.metric).higher_is_better else 1
    bounds = [figure.change if bound is None else bound for bound in (figure.low, figure.high)]
    low, high = sorted(worse * bound for bound in bounds)
    limit = abs(figure.limit or 0.0)
    scale = limit * _LIMITS_SHOWN if limit else max(abs(low), abs(high), 0.01) * 1.2
    css = STATUS_CSS[figure.status]
    marks = [_upright(0.0, "middle")]
    if limit:
        marks.append(_upright(limit / scale, "limit"))
    left, middle, right = (_across(value / scale) for value in (low, worse * figure.change, high))
    marks.append(f'<line class="whisker {css}" x1="{left:.1f}" x2="{right:.1f}" y1="13" y2="13"/>')
    marks.append(f'<circle class="whisker {css}" cx="{middle:.1f}" cy="13" r="4"/>')
    return _svg("".join(marks), f"{percent(figure.change)}, {interval(figure)}")


def interval(figure: Figure) -> str:
    """The interval of the change in words."""
    if figure.low is None or figure.high is None:
        return "interval not known"
    return f"{percent(figure.low)} to {percent(figure.high)}"


def spark(values: Sequence[tuple[str, float]], unit: str) -> str:
    """A line through the nights, the lowest value at the bottom, and what it comes to in words."""
    last = amount(values[-1][1], unit)
    if len(values) == 1:
        return f'<span class="spark">{escape(last)}</span>'
    low, high = min(value for _, value in values), max(value for _, value in values)
    spread = max(high - low, 0.02 * abs(high)) or 1.0  # noise of a steady series is not blown up
    points = [
        (_MARGIN + (_WIDTH - 2 * _MARGIN) * at / (len(values) - 1), 21 - 16 * (value - low) / spread)
        for at, (_, value) in enumerate(values)
    ]
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in points)
    across, up = points[-1]
    drawn = f'<polyline class="a" points="{path}"/><circle class="a" cx="{across:.1f}" cy="{up:.1f}" r="3"/>'
    title = f"{len(values)} nights from {values[0][0]} on: {amount(low)} to {amount(high, unit)}"
    change = percent(values[-1][1] / values[0][1] - 1) if values[0][1] else ""
    return f'<span class="spark">{_svg(drawn, title)} {escape(last)} <small>{change}</small></span>'


def stage_bars(stages: Sequence[StageTime]) -> str:
    """How long each stage took, the longest as wide as the column."""
    longest = max((stage.seconds for stage in stages), default=0.0) or 1.0
    rows = "".join(
        f"<tr><td>{escape(stage.name)}</td><td>{_took(stage)}</td>"
        f'<td class="track"><div class="bar new" style="width:{100 * stage.seconds / longest:.1f}%"></div></td></tr>'
        for stage in stages
    )
    return f'<table class="bars">{rows}</table>'


def timeline(night: Night) -> str:
    """Which cell ran when, from the night's start to its end."""
    cells = night.worked_on
    if not cells:
        return ""
    start = min(night.record.started_unix_s, cells[0].started_unix_s)
    end = max(cell.started_unix_s + cell.seconds for cell in cells)
    whole = max(end - start, 1e-9)
    rows = "".join(
        f'<tr><td><a href="#{escape(cell.identifier)}">{escape(cell.identifier)}</a></td>'
        f'<td>{escape(cell.node)}</td><td>{duration(cell.seconds)}</td><td class="track">'
        f'<div class="bar {night.states[cell.identifier].css}" style="margin-left:'
        f'{100 * (cell.started_unix_s - start) / whole:.2f}%;width:{100 * cell.seconds / whole:.2f}%"></div></td></tr>'
        for cell in cells
    )
    return f'<h2>When</h2><div class="scroll"><table class="bars">{rows}</table></div>'


def _took(stage: StageTime) -> str:
    return "unchanged" if stage.action == "skip" else duration(stage.seconds)


def _across(share: float) -> float:
    """Where a value stands between −1 and 1; beyond, at the edge."""
    return _WIDTH / 2 + (_WIDTH / 2 - _MARGIN) * max(-1.0, min(1.0, share))


def _upright(share: float, css: str) -> str:
    at = _across(share)
    return f'<line class="{css}" x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="24"/>'


def _svg(inner: str, title: str) -> str:
    return (
        f'<svg class="small" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{inner}</svg>"
    )
