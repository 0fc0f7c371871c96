"""The picture of a capacity plan: tokens/s/GPU against tokens/s/user, as inline SVG; a page or a PNG around it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from profiles.choice import CapacityPlan, limits_text
from profiles.operating import Point
from trtllm_kit.errors import HostError, UsageError
from trtllm_kit.files import disk_errors, write_text_atomic

_WIDTH, _HEIGHT = 960, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 210, 46, 56
_COLOURS = ("#0969da", "#bf5b04", "#8250df", "#1a7f37", "#cf222e", "#0b7285", "#a61e8c", "#7a6200")
_OTHERS = "#8c959f"
_INK, _DIM, _GRID = "#1b1f24", "#5f6b7a", "#e1e5ea"


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis over pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> _Axis:
        known = list(values)
        return cls(min(known) / 1.15, max(known) * 1.15, start, end)

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times the powers of ten."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (step * 10.0**power for power in powers for step in (1, 2, 5))
        return [tick for tick in steps if self.low <= tick <= self.high]


def write_plot(plan: CapacityPlan, title: str, path: Path) -> None:
    """Write the picture; the ending says as what: .html (self-contained), .svg or .png."""
    kinds = {".html": _page, ".svg": _svg}
    ending = path.suffix.lower()
    if ending in kinds:
        write_text_atomic(path, kinds[ending](plan, title))
    elif ending == ".png":
        _write_png(_svg(plan, title), path)
    else:
        raise UsageError(f"--plot {path}: '{ending}' is no picture", expected=".html, .svg or .png")


def _svg(plan: CapacityPlan, title: str) -> str:
    """All points in grey to colour by SKU, the front as a line, the choice ringed."""
    x = _Axis.over((point.tokens_per_s_per_user for point in plan.every), _LEFT, _WIDTH - _RIGHT)
    y = _Axis.over((point.tokens_per_s_per_gpu for point in plan.every), _HEIGHT - _BOTTOM, _TOP)
    colours = _colours(plan)
    parts = [
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 26, title, size=16, colour=_INK, anchor="start"),
        *_grid(x, y),
        *(_dot(point, x, y, colours.get(_whole(point), _OTHERS)) for point in plan.every),
        _limit(plan.demand.tpot_ms, x),
        _front(plan.front, x, y),
        _ring(plan.chosen, x, y),
        *_legend(colours, others=any(_whole(point) not in colours for point in plan.best)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        f' role="img" aria-label="{escape(title)}" font-family="system-ui, DejaVu Sans, sans-serif">'
        f"{''.join(parts)}</svg>\n"
    )


def _page(plan: CapacityPlan, title: str) -> str:
    limits = limits_text(plan.demand)
    rows = "".join(
        f"<tr><td>{escape(str(point.configuration))}</td><td>{point.concurrency:,}</td>"
        f"<td>{point.tokens_per_s_per_gpu:,.0f}</td><td>{point.tokens_per_s_per_user:,.1f}</td>"
        f"<td>{point.seen.ttft_ms.value:,.0f}</td><td>{point.seen.tpot_ms.value:,.1f}</td>"
        f"<td>{'' if point.usd_per_million is None else f'{point.usd_per_million:.3f}'}</td></tr>"
        for point in plan.front
    )
    head = ("configuration", "concurrent", "tokens/s/GPU", "tokens/s/user", "TTFT ms", "TPOT ms", "$/M")
    cells = "".join(f"<th>{name}</th>" for name in head)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:24px auto;padding:0 16px;color:#1b1f24}"
        "svg{width:100%;height:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
        "td,th{padding:5px 12px;border-bottom:1px solid #e1e5ea;text-align:right}"
        "td:first-child,th:first-child{text-align:left}</style></head><body>"
        f"{_svg(plan, title)}<p><b>{escape(str(plan.chosen.configuration))}</b> with {plan.chosen.concurrency:,} "
        f"concurrent: {escape(plan.why)}.{f' Limits: {escape(limits)}.' if limits else ''}</p>"
        f"<h2>The front</h2><table><tr>{cells}</tr>{rows}</table></body></html>\n"
    )


def _write_png(svg: str, path: Path) -> None:
    try:
        renderer = importlib.import_module("resvg_py")  # typed nowhere
    except ImportError:
        raise HostError(
            "a PNG needs the resvg-py package, which is not installed",
            expected="the `report` extra",
            fix="pip install 'trtllm-kit[report]', or write an .html or .svg",
        ) from None
    image = bytes(renderer.svg_to_bytes(svg_string=svg, zoom=2))
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        temporary.write_bytes(image)
        temporary.replace(path)


def _whole(point: Point) -> str:
    sku = point.configuration.sku
    return sku.whole_id or sku.id


def _colours(plan: CapacityPlan) -> dict[str, str]:
    """A colour for the SKU of the choice, then for those with the cheapest configurations; the rest stays grey."""
    wanted = dict.fromkeys((_whole(plan.chosen), *map(_whole, plan.front), *map(_whole, plan.best)))
    return dict(zip(wanted, _COLOURS, strict=False))


def _grid(x: _Axis, y: _Axis) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = []
    for tick in x.ticks():
        at = x.at(tick)
        lines.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}" stroke="{_GRID}"/>')
        lines.append(_text(at, bottom + 18, f"{tick:,.4g}"))
    for tick in y.ticks():
        at = y.at(tick)
        lines.append(f'<line x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="{_GRID}"/>')
        lines.append(_text(_LEFT - 8, at + 4, f"{tick:,.6g}", anchor="end"))
    lines.append(_text((_LEFT + right) / 2, _HEIGHT - 14, "output tokens/s for each user"))
    middle = (_TOP + bottom) / 2
    lines.append(
        f'<g transform="rotate(-90 18 {middle})">{_text(18, middle, "output tokens/s for each GPU")}</g>',
    )
    return lines


def _dot(point: Point, x: _Axis, y: _Axis, colour: str) -> str:
    return (
        f'<circle cx="{x.at(point.tokens_per_s_per_user):.1f}" cy="{y.at(point.tokens_per_s_per_gpu):.1f}" r="3"'
        f' fill="{colour}" fill-opacity="0.45"><title>{escape(_caption(point))}</title></circle>'
    )


def _limit(tpot_ms: float | None, x: _Axis) -> str:
    """Left of the line an answer comes more slowly than the limit of TPOT allows."""
    if tpot_ms is None or not x.low < 1000 / tpot_ms < x.high:
        return ""
    at = x.at(1000 / tpot_ms)
    place = f'x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
    line = f'<line {place} stroke="{_INK}" stroke-dasharray="5 4"/>'
    return line + _text(at + 6, _HEIGHT - _BOTTOM - 8, f"TPOT {tpot_ms:g} ms", anchor="start")


def _front(front: Sequence[Point], x: _Axis, y: _Axis) -> str:
    path = " ".join(f"{x.at(row.tokens_per_s_per_user):.1f},{y.at(row.tokens_per_s_per_gpu):.1f}" for row in front)
    return f'<polyline points="{path}" fill="none" stroke="{_INK}" stroke-width="1.5"/>'


def _ring(point: Point, x: _Axis, y: _Axis) -> str:
    at_x, at_y = x.at(point.tokens_per_s_per_user), y.at(point.tokens_per_s_per_gpu)
    anchor, offset = ("end", -12) if at_x > (_WIDTH - _RIGHT + _LEFT) / 2 else ("start", 12)
    return (
        f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="8" fill="none" stroke="{_INK}" stroke-width="2.5">'
        f"<title>{escape(_caption(point))}</title></circle>"
        + _text(at_x + offset, at_y + 24, str(point.configuration), colour=_INK, anchor=anchor)
    )


def _legend(colours: dict[str, str], *, others: bool) -> list[str]:
    left = _WIDTH - _RIGHT + 20
    rows = [*colours.items(), *([("other", _OTHERS)] if others else [])]
    lines = []
    for row, (name, colour) in enumerate(rows):
        y = _TOP + 10 + 22 * row
        lines.append(f'<circle cx="{left}" cy="{y}" r="5" fill="{colour}"/>')
        lines.append(_text(left + 12, y + 4, name, anchor="start"))
    y = _TOP + 10 + 22 * len(rows)
    lines.append(f'<line x1="{left - 6}" x2="{left + 6}" y1="{y}" y2="{y}" stroke="{_INK}" stroke-width="1.5"/>')
    lines.append(_text(left + 12, y + 4, "Pareto front", anchor="start"))
    return lines


def _caption(point: Point) -> str:
    usd = "" if point.usd_per_million is None else f", ${point.usd_per_million:.3f}/M"
    return (
        f"{point.configuration}, {point.concurrency} concurrent: {point.tokens_per_s_per_gpu:,.0f} tokens/s/GPU, "
        f"{point.tokens_per_s_per_user:,.1f} tokens/s/user, TTFT {point.seen.ttft_ms.value:,.0f} ms{usd}"
    )


def _text(x: float, y: float, text: str, *, size: int = 12, colour: str = _DIM, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" paint-order="stroke"'
        f' stroke="#ffffff" stroke-width="4">{escape(text)}</text>'
    )
