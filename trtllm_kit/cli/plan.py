"""`trtllm-kit plan`: what a build would do, before it does it."""

from __future__ import annotations

import sys
from typing import Any

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.session import BuildRequest
from trtllm_kit.errors import CHANGES_PENDING


@click.command()
@options.build_options
@click.option("--check", is_flag=True, help=f"Exit with {CHANGES_PENDING} when something would be built.")
def plan(check: bool, **request: Any) -> int:
    """Show every resolved value with its reason, and what each stage will do and why."""
    asked = BuildRequest(**request)
    pipeline = asked.pipeline()
    reports = pipeline.reports()
    if asked.output == "json":
        options.show_json(
            {
                "identifier": str(pipeline.plan.identifier),
                "spec": pipeline.plan.resolved_spec(),
                "reasons": dict(pipeline.plan.reasons),
                "warnings": list(pipeline.plan.warnings),
                "stages": [
                    {"name": row.name, "action": row.action, "reason": row.reason, "folder": str(row.folder)}
                    for row in reports
                ],
            }
        )
    else:
        _show(pipeline.plan, reports)
    pending = any(row.action == "run" for row in reports)
    return CHANGES_PENDING if check and pending else 0


def _show(plan: Any, reports: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"[bold]{plan.identifier}[/bold]")
    values = Table("key", "value", "why", box=None, pad_edge=False, header_style="dim")
    tree = plan.resolved_spec()
    for key, reason in sorted(plan.reasons.items()):
        values.add_row(key, _value(tree, key), reason)
    console.print(values)
    stages = Table("stage", "action", "why", box=None, pad_edge=False, header_style="dim")
    for row in reports:
        stages.add_row(row.name, row.action, row.reason)
    console.print()
    console.print(stages)


def _value(tree: Any, dotted: str) -> str:
    for part in dotted.split("."):
        tree = tree[part]
    return "none" if tree is None else str(tree)
