"""Line charts as inline SVG: small, sharp, readable without scripts or network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 40


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line; `css` is the class that colours it."""

    name: str
    css: str
    values: tuple[float | None, ...]


def line_chart(title: str, x_label: str, y_label: str, labels: Sequence[str], series: Sequence[Series]) -> str:
    """A figure with one line per series over evenly spaced labels; the y axis starts at zero."""
    top = _nice(max((value for line in series for value in line.values if value is not None), default=0.0))
    parts = [_grid(top), _axis_labels(labels, x_label)]
    for line in series:
        known = [(at, value) for at, value in enumerate(line.values) if value is not None]
        points = [(_x(at, len(labels)), _y(value, top), value) for at, value in known]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<polyline class="{line.css}" points="{path}"/>')
        parts += [
            f'<circle class="{line.css}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
            f"<title>{escape(line.name)}: {value:.4g}</title></circle>"
            for x, y, value in points
        ]
    legend = "".join(f'<span class="key {line.css}">{escape(line.name)}</span>' for line in series)
    return (
        f"<figure><figcaption>{escape(title)} <small>{escape(y_label)}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def _grid(top: float) -> str:
    rows = []
    for step in range(5):
        value = top * step / 4
        y = _y(value, top)
        rows.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        rows.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    return "".join(rows)


def _axis_labels(labels: Sequence[str], x_label: str) -> str:
    y = HEIGHT - _BOTTOM + 18
    ticks = "".join(
        f'<text x="{_x(at, len(labels)):.1f}" y="{y}" text-anchor="middle">{escape(label)}</text>'
        for at, label in enumerate(labels)
    )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return f'{ticks}<text x="{middle:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'


def _x(at: int, count: int) -> float:
    inner = WIDTH - _LEFT - _RIGHT
    return _LEFT + inner * (at + 0.5) / max(count, 1)


def _y(value: float, top: float) -> float:
    inner = HEIGHT - _TOP - _BOTTOM
    return _TOP + inner * (1 - (value / top if top else 0))


def _nice(value: float) -> float:
    """The next of 1, 2, 4, 5, 8, 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 4, 5, 8, 10) if power * step >= value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2g}"
