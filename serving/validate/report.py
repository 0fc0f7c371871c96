"""The report as files: JSON for programs, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from serving.validate.charts import Series, line_chart
from serving.validate.results import CheckResult, ValidationReport
from serving.validate.table import COLUMNS, percentiles
from trtllm_kit.files import pretty_json, write_text_atomic

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5f6b7a;--line:#e1e5ea;--card:#f6f8fa;
--pass:#1a7f37;--warn:#9a6700;--fail:#cf222e;--skipped:#6e7781;--a:#0969da;--b:#bf5b04;--c:#8250df}
@media(prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e4e9ef;--dim:#94a1b0;--line:#2b323b;--card:#171c23;
--pass:#3fb950;--warn:#d29922;--fail:#f85149;--skipped:#8b949e;--a:#58a6ff;--b:#f0883e;--c:#bc8cff}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 20px 60px}h1{font-size:1.4rem;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:36px 0 10px}.dim,small,figcaption small{color:var(--dim);font-weight:400}
.verdict{border-left:6px solid;background:var(--card);padding:14px 18px;margin:20px 0;border-radius:6px}
.verdict b{font-size:1.3rem;text-transform:uppercase;letter-spacing:.03em}.verdict ul{margin:8px 0 0;padding-left:20px}
.pass{color:var(--pass)}.warn{color:var(--warn)}.fail{color:var(--fail)}.skipped{color:var(--skipped)}
.verdict ul,.facts{color:var(--fg)}
.tiles{display:flex;flex-wrap:wrap;gap:12px}.tile{background:var(--card);border-radius:6px;
padding:12px 18px;min-width:150px}.tile b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:7px 12px;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,.words td,.words th{text-align:left}.words td{white-space:normal;overflow-wrap:anywhere}
th{color:var(--dim);font-weight:600}.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));
gap:20px}figure{margin:0;background:var(--card);border-radius:6px;padding:14px}figcaption{font-weight:600;margin-bottom:6px}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font-size:12px}.grid{stroke:var(--line)}
polyline{fill:none;stroke-width:2.5}polyline.a{stroke:var(--a)}polyline.b{stroke:var(--b)}polyline.c{stroke:var(--c)}
circle.a{fill:var(--a)}circle.b{fill:var(--b)}circle.c{fill:var(--c)}.legend{display:flex;gap:16px;font-size:13px;
color:var(--dim);padding-left:8px}.key::before{content:"";display:inline-block;width:12px;height:3px;margin-right:6px;
vertical-align:middle}.key.a::before{background:var(--a)}.key.b::before{background:var(--b)}
.key.c::before{background:var(--c)}
"""


_LATENCY_CHARTS = (
    ("ttft_ms", "Time to first token"),
    ("tpot_ms", "Time per output token"),
    ("itl_ms", "Gap between tokens"),
)


def write_report(report: ValidationReport, folder: Path) -> tuple[Path, Path]:
    """Write report.json and report.html into `folder`, each whole or not at all; returns their paths."""
    json_path, html_path = folder / "report.json", folder / "report.html"
    write_text_atomic(json_path, pretty_json(report.to_json()))
    write_text_atomic(html_path, html_page(report))
    return json_path, html_path


def html_page(report: ValidationReport) -> str:
    """One self-contained page: verdict, figures, charts, checks, conditions."""
    check = report.check("throughput")
    levels: Sequence[Mapping[str, Any]] = check.data.get("levels", ()) if check else ()
    title = str(report.about.get("identifier") or report.endpoint.get("http"))
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<div class="dim">validated {_when(report)} in {report.duration_s:.0f} s</div>',
        _verdict(report),
        _tiles(levels),
        _charts(levels),
        _level_table(levels),
        _checks(report.checks),
        _facts(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Validation of {escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _when(report: ValidationReport) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.started_unix_s))


def _verdict(report: ValidationReport) -> str:
    status = report.verdict.status
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in report.verdict.reasons)
    limits = ", ".join(f"{key} {value:g}" for key, value in report.limits.items()) or "none set"
    return (
        f'<section class="verdict {status}"><b>{status}</b>'
        f'<div class="facts">Limits: {escape(limits)}</div><ul>{reasons}</ul></section>'
    )


def _tiles(levels: Sequence[Mapping[str, Any]]) -> str:
    if not levels:
        return ""
    best = max(levels, key=lambda level: float(level["output_tokens_per_s"]))
    ttft = [level["ttft_ms"]["p95"] for level in levels if level["ttft_ms"]]
    rows = [
        (f"{best['output_tokens_per_s']:,.1f}", f"output tokens/s at concurrency {best['concurrency']}"),
        (f"{best['requests_per_s']:,.2f}", "requests/s there"),
        (f"{min(ttft):,.1f} ms" if ttft else "-", "lowest TTFT p95"),
        (f"{sum(level['output_tokens'] for level in levels):,}", "output tokens counted"),
        (str(sum(level["requests"] - level["completed"] for level in levels)), "requests failed"),
    ]
    tiles = (f'<div class="tile"><b>{escape(value)}</b><small>{escape(name)}</small></div>' for value, name in rows)
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _charts(levels: Sequence[Mapping[str, Any]]) -> str:
    if not levels:
        return ""
    labels = [str(level["concurrency"]) for level in levels]
    rate = Series(name="output tokens/s", css="a", values=tuple(level["output_tokens_per_s"] for level in levels))
    figures = [line_chart("Throughput", "concurrency", "output tokens/s", labels, [rate])]
    for key, title in _LATENCY_CHARTS:
        lines = [
            Series(name=name, css=css, values=tuple(level[key][name] if level[key] else None for level in levels))
            for name, css in (("p50", "a"), ("p95", "b"), ("p99", "c"))
        ]
        figures.append(line_chart(title, "concurrency", "ms", labels, lines))
    return f'<h2>By concurrency</h2><section class="charts">{"".join(figures)}</section>'


def _level_table(levels: Sequence[Mapping[str, Any]]) -> str:
    if not levels:
        return ""
    rows = (
        (
            level["concurrency"],
            f"{level['output_tokens_per_s']:.1f}",
            f"{level['requests_per_s']:.2f}",
            percentiles(level["ttft_ms"]),
            percentiles(level["tpot_ms"]),
            f"{level['completed']}/{level['requests']}",
            level["output_tokens"],
        )
        for level in levels
    )
    return f'<h2>Figures</h2><div class="scroll">{_table(COLUMNS, rows)}</div>'


def _checks(checks: Sequence[CheckResult]) -> str:
    rows = "".join(
        f'<tr><td class="{check.status}">{check.status}</td><td>{escape(check.name)}</td>'
        f"<td>{'<br>'.join(escape(reason) for reason in check.reasons)}</td></tr>"
        for check in checks
    )
    return f'<h2>Checks</h2><table class="words"><tr><th></th><th>check</th><th>reasons</th></tr>{rows}</table>'


def _facts(report: ValidationReport) -> str:
    check = report.check("throughput")
    load = {key: value for key, value in (check.data if check else {}).items() if key != "levels"}
    facts = {**report.about, **report.endpoint, **load}
    cells = ((escape(str(key)), escape(_plain(value))) for key, value in facts.items())
    rows = "".join(f"<tr><td>{key}</td><td>{value}</td></tr>" for key, value in cells)
    return f'<h2>Conditions</h2><table class="words">{rows}</table>'


def _plain(value: object) -> str:
    """Nested values as a person would write them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return str(value)


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    header = "".join(f"<th>{escape(str(cell))}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{header}</tr>{body}</table>"
