"""A night as one HTML page that needs nothing beside it: what needs a person first, then the matrix, then each cell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape

from serving.nightly.report.cell_part import cell_part, trends
from serving.nightly.report.differences import short
from serving.nightly.report.grid import grid
from serving.nightly.report.pictures import timeline
from serving.nightly.report.style import STYLE
from serving.nightly.report.summary import Summary, words_of
from serving.validate.page_style import document

_QUIET = ("unchanged", "impossible")


def html_page(summary: Summary, logs: Mapping[str, str]) -> str:
    """The page; `logs` are texts by identifier."""
    night = summary.night
    worked = [row for row in summary.by_urgency if row[1].name not in _QUIET]
    cells = "".join(cell_part(summary, identifier, logs.get(identifier)) for identifier, _, _ in worked)
    body = [
        f"<h1>Night of {_when(night.record.started_unix_s)}</h1>",
        f'<div class="dim">{escape(night.name)}, on {escape(night.record.executor)}</div>',
        _verdict(summary),
        grid(summary) if night.results else "",
        _upstream(summary),
        f"<h2>Cells</h2>{cells}" if cells else "",
        _left_alone(summary),
        timeline(night),
        _surroundings(summary),
    ]
    return document(f"Night {night.name}: {summary.verdict[0]}", "".join(body), STYLE)


def _verdict(summary: Summary) -> str:
    word, css = summary.verdict
    troubles = "".join(
        f'<li><a href="#{escape(identifier)}">{escape(identifier)}</a>: {escape(words_of(state, result))}</li>'
        for identifier, state, result in summary.by_urgency
        if state.exit_code
    )
    return (
        f'<section class="verdict {css}"><b>{word}</b><div class="facts">{escape(summary.sentence)}</div>'
        f"<ul>{troubles}</ul></section>"
    )


def _upstream(summary: Summary) -> str:
    if not summary.earlier:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one.what)}</td><td>{escape(short(one.before))} → {escape(short(one.now))}</td></tr>"
        for one in summary.upstream
    )
    found = f'<table class="words pairs">{rows}</table>' if rows else "<p>Nothing that the nights wrote down.</p>"
    return f"<h2>What changed upstream</h2>{found}"


def _left_alone(summary: Summary) -> str:
    rows = "".join(
        f'<tr id="{escape(identifier)}"><td><b class="{state.css}">{state.symbol}</b> {escape(identifier)}</td>'
        f"<td>{escape(words_of(state, result))}<div>{trends(summary, identifier)}</div></td></tr>"
        for identifier, state, result in summary.by_urgency
        if state.name in _QUIET
    )
    return f'<h2>Left alone</h2><table class="words pairs">{rows}</table>' if rows else ""


def _surroundings(summary: Summary) -> str:
    record = summary.night.record
    facts = {**record.versions, **record.upstream, "matrix": record.matrix}
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in facts.items() if value)
    return f'<h2>Conditions</h2><table class="words pairs">{rows}</table>' if rows else ""


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))
