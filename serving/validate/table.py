"""The report on a terminal: the verdict, each check in a line, throughput as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serving.validate.results import ValidationReport

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}
COLUMNS = ("concurrency", "tok/s", "req/s", "TTFT ms p50/p95/p99", "TPOT ms p50/p95/p99", "done", "tokens")


def print_report(report: ValidationReport, console: Console) -> None:
    """Write the report to `console`."""
    from rich.table import Table
    from rich.text import Text

    for check in report.checks:
        console.print(Text.assemble((f"{check.status:>7}", STYLES[check.status]), f"  {check.name}"))
        for reason in check.reasons:
            console.print(Text(f"           {reason}", style="dim"))
    throughput = report.check("throughput")
    if throughput is not None and throughput.data.get("levels"):
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        for level in throughput.data["levels"]:
            table.add_row(*_row(level))
        console.print(table)
    console.print(Text.assemble("verdict: ", (report.verdict.status, STYLES[report.verdict.status])))


def _row(level: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(level["concurrency"]),
        f"{level['output_tokens_per_s']:.1f}",
        f"{level['requests_per_s']:.2f}",
        percentiles(level["ttft_ms"]),
        percentiles(level["tpot_ms"]),
        f"{level['completed']}/{level['requests']}",
        str(level["output_tokens"]),
    )


def percentiles(latency: Mapping[str, float] | None) -> str:
    """p50/p95/p99 in one cell."""
    if latency is None:
        return "-"
    return " / ".join(f"{latency[key]:.1f}" for key in ("p50", "p95", "p99"))
