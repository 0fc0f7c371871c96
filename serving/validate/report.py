"""The report as files: JSON for programs, one HTML page that needs nothing beside it, AIPerf's JSON for each run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from serving.load.run import RUN
from serving.validate.aiperf import EXPORT, export
from serving.validate.figures import curves, distributions, timelines
from serving.validate.page_style import document
from serving.validate.results import CheckResult, ValidationReport
from serving.validate.sides import REPORT
from serving.validate.table import COLUMNS, bill_lines, level_row
from trtllm_kit.files import pretty_json, read_json, write_text_atomic

PAGE = "report.html"

Level = Mapping[str, Any]


def write_report(report: ValidationReport, results: Path) -> Path:
    """Write report.json, report.html and each run's AIPerf export into the results folder; returns the page."""
    write_text_atomic(results / REPORT, pretty_json(report.to_json()))
    for level in _levels(report):
        folder = results / level["folder"]
        write_text_atomic(folder / EXPORT, pretty_json(export(level, read_json(folder / RUN, "a run"))))
    write_text_atomic(results / PAGE, html_page(report, results))
    return results / PAGE


def html_page(report: ValidationReport, results: Path) -> str:
    """One self-contained page: verdict and bill on top, then figures, charts, checks, conditions."""
    levels = _levels(report)
    title = str(report.about.get("identifier") or report.endpoint.get("http"))
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<div class="dim">validated {_when(report)} in {report.duration_s:.0f} s</div>',
        _verdict(report),
        _tiles(report, levels),
        curves(levels),
        _level_table(levels),
        distributions(levels),
        timelines(levels, results),
        _checks(report.checks),
        _facts(report),
    ]
    return document(f"Validation of {title}", "".join(body))


def _levels(report: ValidationReport) -> Sequence[Level]:
    check = report.check("throughput")
    levels: Sequence[Level] = check.data.get("levels", ()) if check else ()
    return levels


def _when(report: ValidationReport) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.started_unix_s))


def _verdict(report: ValidationReport) -> str:
    status = report.verdict.status
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in report.verdict.reasons)
    check = report.check("throughput")
    limits = {**report.limits, **(check.data.get("slo", {}) if check else {})}
    said = ", ".join(f"{key} {value}" for key, value in limits.items()) or "none set"
    unpaid = f". No bill: {report.bill['why_not']}" if "why_not" in report.bill else ""
    cut = " <small>interrupted: this is what was measured until then</small>" if report.interrupted else ""
    return (
        f'<section class="verdict {status}"><b>{status}</b>{cut}'
        f'<div class="facts">Limits: {escape(said)}{escape(unpaid)}</div><ul>{reasons}</ul></section>'
    )


def _tiles(report: ValidationReport, levels: Sequence[Level]) -> str:
    if not levels:
        return ""
    best = max(levels, key=lambda level: float(level["output_tokens_per_s"]))
    ttft = [level["ttft_ms"]["p95"] for level in levels if level["ttft_ms"]]
    rows = [
        *_found_tile(report),
        (f"{best['output_tokens_per_s']:,.1f}", f"output tokens/s at {best['name']}"),
        (f"{min(ttft):,.1f} ms" if ttft else "-", "lowest TTFT p95"),
        *bill_lines(report.bill),
        (f"{sum(level['output_tokens'] for level in levels):,}", "output tokens counted"),
        (str(sum(sum(level["errors"].values()) for level in levels)), "requests failed"),
    ]
    tiles = (f'<div class="tile"><b>{escape(value)}</b><small>{escape(name)}</small></div>' for value, name in rows)
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _found_tile(report: ValidationReport) -> list[tuple[str, str]]:
    check = report.check("throughput")
    found = check.data.get("search") if check else None
    if not found or found["best"] is None:
        return []
    unit = " req/s" if found["kind"] == "rate" else ""
    beyond = f", misses it at {found['beyond']:.4g}{unit}" if found["beyond"] else ""
    return [(f"{found['best']:.4g}{unit}", f"highest {found['kind']} within the SLO{beyond}")]


def _level_table(levels: Sequence[Level]) -> str:
    if not levels:
        return ""
    return f'<h2>Figures</h2><div class="scroll">{_table(COLUMNS, map(level_row, levels))}</div>'


def _checks(checks: Sequence[CheckResult]) -> str:
    rows = "".join(
        f'<tr><td class="{check.status}">{check.status}</td><td>{escape(check.name)}</td>'
        f"<td>{'<br>'.join(escape(reason) for reason in check.reasons)}</td></tr>"
        for check in checks
    )
    return f'<h2>Checks</h2><table class="words"><tr><th></th><th>check</th><th>reasons</th></tr>{rows}</table>'


def _facts(report: ValidationReport) -> str:
    check = report.check("throughput")
    load = {key: value for key, value in (check.data if check else {}).items() if key not in ("levels", "search")}
    seen = report.check("physics")
    network = {"round_trip_ms": seen.data["rtt_ms"]} if seen else {}
    facts = {**report.about, **report.endpoint, **load, **network, **report.bill}
    cells = ((escape(str(key)), escape(_plain(value))) for key, value in facts.items() if value not in (None, "", {}))
    rows = "".join(f"<tr><td>{key}</td><td>{value}</td></tr>" for key, value in cells)
    return f'<h2>Conditions</h2><table class="words">{rows}</table>'


def _plain(value: object) -> str:
    """Nested values as a person would write them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    header = "".join(f"<th>{escape(str(cell))}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{header}</tr>{body}</table>"
