"""Figures with their formulas, as lines or as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import click

from profiles.cost import Worked, figure
from trtllm_kit.cli import options


def show(lines: Iterable[Worked], output: str, remark: str = "") -> None:
    """Figures with their formulas, one a line, or as JSON."""
    if output == "json":
        options.show_json({"figures": [asdict(line) for line in lines], "remark": remark})
        return
    for line in lines:
        click.echo(f"{line.name:<38} {figure(line.value, line.unit):>22}   {line.formula}")
    if remark:
        click.echo(remark)
