"""The matrix as a grid: models and precisions down, SKUs and layouts across; a symbol, a word and a colour in each."""

from __future__ import annotations

from html import escape

from builder.depot.records import CellName
from serving.nightly.report.states import STATES
from serving.nightly.report.summary import Summary, words_of
from trtllm_kit.identifier import BuildIdentifier


def grid(summary: Summary) -> str:
    """The table with its legend; each cell leads to its own part of the page and says its words when pointed at."""
    cells = {CellName.of(BuildIdentifier.parse(identifier)): identifier for identifier in summary.night.results}
    columns = sorted({(cell.sku, cell.layout) for cell in cells})
    rows = sorted({(cell.model, cell.precision) for cell in cells})
    head = "".join(f"<th>{escape(sku)}<br><small>{escape(layout)}</small></th>" for sku, layout in columns)
    body = "".join(
        f"<tr><th>{escape(model)}<br><small>{escape(precision)}</small></th>"
        + "".join(_cell(summary, cells.get(CellName(model, precision, *column))) for column in columns)
        + "</tr>"
        for model, precision in rows
    )
    return (
        f'<h2>Matrix</h2><div class="scroll"><table class="grid-of-cells"><tr><th></th>{head}</tr>{body}</table></div>'
        f'<p class="states">{_legend(summary)}</p>'
    )


def _cell(summary: Summary, identifier: str | None) -> str:
    if identifier is None:
        return "<td></td>"
    state = summary.night.states[identifier]
    words = words_of(state, summary.night.results[identifier])
    return (
        f'<td class="{state.css}"><a href="#{escape(identifier)}" title="{escape(words)}">'
        f"<b>{state.symbol}</b> <span>{state.name}</span></a></td>"
    )


def _legend(summary: Summary) -> str:
    return "".join(
        f'<span><b class="{STATES[name].css}">{STATES[name].symbol}</b> {name}: {STATES[name].meaning}</span>'
        for name in summary.counts
    )
