"""Pictures of the quality report as inline SVG: sharp, readable without scripts or network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH = 560
_LEFT, _RIGHT, _TOP = 104, 16, 14
_ROW = 30  # height of an interval's row
_PLOT = 200  # height of the plot of lines
_CELL = 24  # height of a cell of the map


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """An estimate with the ends of its interval; `css` is the class that colours it."""

    name: str
    value: float
    low: float
    high: float
    css: str


def intervals(title: str, rows: Sequence[Whisker], limit: float, *, percent: bool = False) -> str:
    """Estimates one below the other on one axis, with the limit as a line across."""
    finite = [end for row in rows for end in (row.value, row.low, row.high) if math.isfinite(end)]
    left, right = min(*finite, limit), max(*finite, limit)
    margin = (right - left) * 0.06 or abs(right) * 0.1 or 1.0
    axis = _Axis(left - margin, right + margin)
    height = _TOP + _ROW * len(rows) + 28
    at = axis.x(limit)
    parts = [axis.ticks(_TOP + _ROW * len(rows), percent)]
    parts.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_TOP + _ROW * len(rows)}"/>')
    parts.append(f'<text class="limit" x="{_inside(at):.1f}" y="{_TOP - 3}" text-anchor="middle">limit</text>')
    for number, row in enumerate(rows):
        parts.append(_whisker(axis, row, _TOP + _ROW * (number + 0.5), percent))
    return _figure(title, height, "".join(parts))


def _whisker(axis: _Axis, row: Whisker, y: float, percent: bool) -> str:
    ends = [
        axis.x(end) if math.isfinite(end) else edge for end, edge in ((row.low, _LEFT), (row.high, _WIDTH - _RIGHT))
    ]
    text = f"{row.name}: {_number(row.value, percent)} [{_number(row.low, percent)}, {_number(row.high, percent)}]"
    return (
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(row.name)}</text>'
        f'<g class="{row.css}"><line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle cx="{axis.x(row.value):.1f}" cy="{y:.1f}" r="5"/><title>{escape(text)}</title></g>'
    )


class _Axis:
    """A linear axis from left to right."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - self._low) / (self._high - self._low)

    def ticks(self, y: float, percent: bool) -> str:
        step = _round_step((self._high - self._low) / 4)
        first = math.ceil(self._low / step)
        values = [step * number for number in range(first, math.floor(self._high / step) + 1)]
        return "".join(
            f'<line class="grid" x1="{self.x(value):.1f}" x2="{self.x(value):.1f}" y1="{_TOP}" y2="{y}"/>'
            f'<text x="{self.x(value):.1f}" y="{y + 18}" text-anchor="middle">{_number(value, percent)}</text>'
            for value in values
        )


@dataclass(frozen=True, kw_only=True)
class Line:
    """One value for each layer; `css` is the class that colours it."""

    name: str
    css: str
    values: Sequence[float]


def layer_lines(title: str, lines: Sequence[Line]) -> str:
    """Relative errors over the layers, from zero."""
    count = len(lines[0].values)
    top = max((value for line in lines for value in line.values), default=0.0) or 1.0
    step = _round_step(top / 4)
    top = step * math.ceil(top / step)
    parts = []
    for number in range(round(top / step) + 1):
        y = _level(step * number, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(step * number, True)}</text>')
    parts.append(_layer_labels(count, _TOP + _PLOT + 18))
    for line in lines:
        points = [(_column(at, count), _level(value, top)) for at, value in enumerate(line.values)]
        parts.append(
            f'<polyline class="{line.css}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
            + "".join(
                f'<circle class="{line.css}" cx="{x:.1f}" cy="{y:.1f}" r="{4 if count <= 40 else 2.5}">'
                f"<title>{escape(line.name)}, layer {at}: {_number(value, True)}</title></circle>"
                for at, ((x, y), value) in enumerate(zip(points, line.values, strict=True))
            )
        )
    legend = "".join(f'<span class="key {line.css}">{escape(line.name)}</span>' for line in lines)
    return _figure(title, _TOP + _PLOT + 40, "".join(parts), f'<div class="legend">{legend}</div>')


def layer_map(title: str, names: Sequence[str], cells: Sequence[Sequence[float | None]]) -> str:
    """A cell for each name (down) and layer (across): the darker, the larger its share of the largest of all."""
    count = len(cells[0])
    largest = max((value for row in cells for value in row if value), default=1.0)
    width = (_WIDTH - _LEFT - _RIGHT) / count
    parts = []
    for number, (name, row) in enumerate(zip(names, cells, strict=True)):
        y = _TOP + _CELL * number
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        parts += [
            f'<rect class="cell" x="{_LEFT + width * at:.1f}" y="{y}" width="{max(width - 1, 1):.1f}" '
            f'height="{_CELL - 1}" style="fill-opacity:{0.08 + 0.92 * value / largest:.3f}">'
            f"<title>{escape(name)}, layer {at}: {_number(value, True)}</title></rect>"
            for at, value in enumerate(row)
            if value is not None
        ]
    bottom = _TOP + _CELL * len(names)
    parts.append(_layer_labels(count, bottom + 16))
    key = f'<div class="legend"><span>darkest: {_number(largest, True)}</span></div>'
    return _figure(title, bottom + 38, "".join(parts), key)


def _layer_labels(count: int, y: float) -> str:
    every = max(1, math.ceil(count / 16))
    ticks = "".join(
        f'<text x="{_column(at, count):.1f}" y="{y}" text-anchor="middle">{at}</text>' for at in range(0, count, every)
    )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return f'{ticks}<text x="{middle:.1f}" y="{y + 18}" text-anchor="middle">layer</text>'


def _column(at: int, count: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (at + 0.5) / count


def _level(value: float, top: float) -> float:
    return _TOP + _PLOT * (1 - value / top)


def _inside(x: float) -> float:
    return min(max(x, _LEFT + 12), _WIDTH - _RIGHT - 12)


def _figure(title: str, height: float, drawing: str, below: str = "") -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{drawing}</svg>'
        f"{below}</figure>"
    )


def _round_step(value: float) -> float:
    """The next of 1, 2, 5, 10 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value * (1 - 1e-9))


def _number(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return "unknown"
    return f"{100 * value:.3g} %" if percent else f"{value:.3g}"
