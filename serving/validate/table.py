"""The report on a terminal: the verdict, each check in a line, throughput as a table, the bill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serving.validate.compare import Comparison, Row
from serving.validate.results import ValidationReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}
_CHANGES = {"worse": "bold red", "better": "green", "same": "", "unknown": "dim"}
COLUMNS = ("load", "tok/s", "req/s", "TTFT ms p50/p95/p99", "TPOT ms p50/p95/p99", "in SLO", "done", "tokens")


def print_report(report: ValidationReport, console: Console) -> None:
    """Write the report to `console`."""
    from rich.text import Text

    for check in report.checks:
        console.print(Text.assemble((f"{check.status:>7}", STYLES[check.status]), f"  {check.name}"))
        for reason in check.reasons:
            console.print(Text(f"           {reason}", style="dim"))
    throughput = report.check("throughput")
    if throughput is not None and throughput.data.get("levels"):
        table = _table(COLUMNS)
        for level in throughput.data["levels"]:
            table.add_row(*level_row(level))
        console.print(table)
    for price, words in bill_lines(report.bill):
        console.print(f"{price} {words}")
    console.print(Text.assemble("verdict: ", (report.verdict.status, STYLES[report.verdict.status])))


def print_comparison(found: Comparison, console: Console) -> None:
    """One line for each metric, B against A."""
    table = _table(("load", "metric", "A", "B", "change", "95 % interval", ""))
    for row in found.rows:
        table.add_row(*_change(row), style=_CHANGES[row.status])
    console.print(table)
    for name in found.unmatched:
        console.print(f"{name} is on one side only", style="dim")
    for note in found.notes:
        console.print(note, style="yellow")
    console.print("B is slower beyond noise" if found.worse else "no metric of B is worse beyond noise")


def level_row(level: Mapping[str, Any]) -> tuple[str, ...]:
    """A level's cells under COLUMNS."""
    half, good = level["output_tokens_per_s_ci"], level["good_share"]
    return (
        level["name"],
        f"{level['output_tokens_per_s']:.1f}" + (f" ±{half:.1f}" if half else ""),
        f"{level['requests_per_s']:.2f}",
        _percentiles(level["ttft_ms"]),
        _percentiles(level["tpot_ms"]),
        "-" if good is None else f"{good:.1%}",
        f"{level['completed']}/{level['requests']}",
        str(level["output_tokens"]),
    )


def bill_lines(bill: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(price, what for) of what is known."""
    rows = (("per_million", "per million tokens"), ("per_million_within_slo", "per million tokens within the SLO"))
    return [(f"${bill[key]['usd']:,.3g}", f"{words}, at {bill[key]['level']}") for key, words in rows if key in bill]


def _change(row: Row) -> tuple[str, ...]:
    known = row.low is not None and row.high is not None
    return (
        row.level,
        row.metric,
        f"{row.a:,.4g} {row.unit}",
        f"{row.b:,.4g} {row.unit}",
        f"{row.change:+.1%}",
        f"{row.low:+.1%} to {row.high:+.1%}" if known else "not known",
        row.status,
    )


def _table(columns: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at == 0 else "right", no_wrap=True)
    return table


def _percentiles(latency: Mapping[str, float] | None) -> str:
    """p50/p95/p99 in one cell."""
    return "-" if latency is None else " / ".join(f"{latency[key]:.1f}" for key in ("p50", "p95", "p99"))
