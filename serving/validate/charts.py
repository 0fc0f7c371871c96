"""Line charts as inline SVG: small, sharp, readable without scripts or network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 14, 42
_TICKS = 6
_DECADES = 3  # of a logarithmic axis at most, from its upper end
_FEW = 3  # points that a line alone would not show


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line through (x, y) points; `css` is the class that colours it, `labels` stand beside its points."""

    name: str
    css: str
    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...] = ()
    dots: bool = True


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From `low` to `high`, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands, 0 to 1."""
        if self.log:
            value, low, high = (math.log(max(one, self.low)) for one in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Round values."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _nice((self.high - self.low) / (_TICKS - 1))
        first = math.ceil(self.low / step - 1e-9)
        return [step * at for at in range(first, int(self.high / step + 1e-9) + 1)]


def line_chart(title: str, x_label: str, y_label: str, series: Sequence[Series], *, log_x: bool = False) -> str:
    """A figure with one line per series on numeric axes; the y axis, and a linear x axis, start at zero."""
    points = [point for line in series for point in line.points]
    if not points:
        return ""
    x, y = _x_axis([at for at, _ in points], log=log_x), _from_zero([value for _, value in points])
    parts = [_grid(x, y), _names(x_label)]
    parts += [_line(line, x, y) for line in series]
    legend = "".join(f'<span class="key {line.css}">{escape(line.name)}</span>' for line in series)
    return (
        f"<figure><figcaption>{escape(title)} <small>{escape(y_label)}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def _line(line: Series, x: Axis, y: Axis) -> str:
    placed = [(_across(x, at), _up(y, value)) for at, value in line.points]
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in placed)
    parts = [f'<polyline class="{line.css}" points="{path}"/>']
    names = line.labels or ("",) * len(placed)
    if line.dots or len(placed) < _FEW:
        parts += [
            f'<circle class="{line.css}" cx="{across:.1f}" cy="{up:.1f}" r="4">'
            f"<title>{escape(name or line.name)}: {at:.4g}, {value:.4g}</title></circle>"
            for (across, up), (at, value), name in zip(placed, line.points, names, strict=True)
        ]
    parts += _point_labels(placed, line.labels)
    return "".join(parts)


def _point_labels(placed: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[str]:
    """Beside their points, except where one would lie over the one before."""
    parts: list[str] = []
    drawn: list[tuple[float, float]] = []
    for (across, up), label in zip(placed, labels, strict=False):
        if any(abs(across - other[0]) < 9 * len(label) and abs(up - other[1]) < 14 for other in drawn):
            continue
        drawn.append((across, up))
        anchor = "end" if across > WIDTH - _RIGHT - 60 else "start"
        shift = -8 if anchor == "end" else 8
        parts.append(f'<text x="{across + shift:.1f}" y="{up - 7:.1f}" text-anchor="{anchor}">{escape(label)}</text>')
    return parts


def _grid(x: Axis, y: Axis) -> str:
    rows = []
    for value in y.ticks():
        up = _up(y, value)
        rows.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{up:.1f}" y2="{up:.1f}"/>')
        rows.append(f'<text x="{_LEFT - 8}" y="{up + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    below = HEIGHT - _BOTTOM + 18
    rows += [
        f'<text x="{_across(x, value):.1f}" y="{below}" text-anchor="middle">{_number(value)}</text>'
        for value in x.ticks()
    ]
    return "".join(rows)


def _names(x_label: str) -> str:
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return f'<text x="{middle:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'


def _x_axis(values: Sequence[float], *, log: bool) -> Axis:
    if not log:
        return _from_zero(values)
    high = max(values)
    low = max(min(values), high / 10**_DECADES)
    return Axis(low=low, high=high if high > low else low * 2, log=True)


def _from_zero(values: Sequence[float]) -> Axis:
    high = max(max(values), 0.0) * 1.04
    return Axis(low=0.0, high=high or 1.0)


def _across(axis: Axis, value: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * axis.share(value)


def _up(axis: Axis, value: float) -> float:
    return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - axis.share(value))


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= _TICKS - 1:
            return ticks
    step = _nice((high - low) / (_TICKS - 1))
    return [step * at for at in range(math.ceil(low / step), int(high / step) + 1)]


def _nice(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= value * 0.999)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
