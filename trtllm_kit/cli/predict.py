"""`trtllm-kit predict`: throughput and latency for rows of a CSV file, with errors where a row has the truth."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from profiles import model_shape
from profiles.model_shape import ModelShape
from trtllm_kit.cli import options
from trtllm_kit.cli.model_source import read_model
from trtllm_kit.errors import SpecError
from trtllm_kit.files import disk_errors, write_text_atomic

if TYPE_CHECKING:
    from profiles.performance.report import Group

configs = click.option(
    "--config",
    "config_paths",
    multiple=True,
    metavar="[NAME=]PATH",
    help="The config.json (or its folder) of rows whose model is NAME, or of all whose model is not known.",
)


@click.command()
@click.argument("rows", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="ROWS.csv")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows here, not to stdout."
)
@configs
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def predict(rows: Path, out: Path | None, config_paths: tuple[str, ...], output: str) -> None:
    """Predict every row of ROWS.csv and write the same rows with predicted, low, high and basis.

    The columns are those of published throughput rows (gpu_sku, model, precision, tp, isl, osl, ...) or of measured
    latency rows (system, model_path, precision, tp_size, batch_size, ...). Throughput is that of the whole replica.
    Intervals hold 90 % of the rows that the fit had not seen. The errors by group follow where truths are given.
    """
    from profiles.performance.report import answered
    from profiles.performance.rows import read

    found, groups = answered(read(rows, Shapes(config_paths)))
    if out is not None:
        write_text_atomic(out, _csv(found))
    if output == "json":
        summary = [vars(group) for group in groups]
        options.show_json({"summary": summary} if out is not None else {"rows": found, "summary": summary})
        return
    if out is None:
        click.echo(_csv(found), nl=False)
    _show(groups, to_stderr=out is None)


class Shapes:
    """Shapes by name: the given configs first, then the public models."""

    def __init__(self, config_paths: Sequence[str]) -> None:
        self._named: dict[str, ModelShape] = {}
        self._otherwise: ModelShape | None = None
        for given in config_paths:
            name, _, path = given.rpartition("=")
            with disk_errors(Path(path)):
                shape = read_model(path).shape
            if name:
                self._named[model_shape.normalized(name)] = shape
            else:
                self._otherwise = shape

    def __call__(self, name: str) -> ModelShape:
        own = self._named.get(model_shape.normalized(name))
        if own is not None:
            return own
        try:
            return model_shape.find(name)
        except SpecError:
            if self._otherwise is None:
                raise
            return self._otherwise


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _show(groups: Sequence[Group], *, to_stderr: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if not groups:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("error, %")
    for name in ("rows", "median", "mean", "p90", "in interval"):
        table.add_column(name, justify="right")
    for group in groups:
        figures = (group.median_percent, group.mean_percent, group.p90_percent)
        table.add_row(group.name, str(group.rows), *(f"{figure:.1f}" for figure in figures), f"{group.held:.0%}")
    Console(highlight=False, stderr=to_stderr, width=None if sys.stdout.isatty() else 100).print(table)
