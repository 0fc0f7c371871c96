"""`trtllm-kit checkpoint`: look into a checkpoint, quantized or not, in either layout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtllm_kit.cli import options
from trtllm_kit.console import StderrTalk

if TYPE_CHECKING:
    from rich.table import Table

    from builder.quantize.inspect import Inspection, LinearFacts

_WIDTH = 140  # where nothing tells the terminal's
_WORST = 10
_MB = 1_000_000


@click.group()
def checkpoint() -> None:
    """Look into checkpoints."""


@checkpoint.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The checkpoint that it was quantized from: tells the error of each linear.",
)
@options.output
@options.quiet
def inspect(folder: Path, against: Path | None, output: str, quiet: bool) -> None:
    """Scheme, layout, split, sizes, ranges of scales, and the linears that stand out.

    FOLDER holds a checkpoint in the trtllm or the unified Hugging Face layout, by trtllm-kit or ModelOpt, or one of
    AutoAWQ or compressed-tensors, or one that is not quantized.
    """
    from builder.quantize.inspect import inspect as look

    found = look(folder, against, StderrTalk(quiet=quiet or output == "json"))
    if output == "json":
        options.show_json(found.to_json())
    else:
        _show(found)


def _show(found: Inspection) -> None:
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    for line in _summary(found):
        console.print(line)
    console.print()
    console.print(_sizes(found))
    console.print()
    console.print(_layers(found))
    console.print()
    for line in _verdict(found):
        console.print(line)


def _summary(found: Inspection) -> Iterator[str]:
    plain = set(found.formats) == {"plain"}
    scheme = found.quant_algo or ("unquantized" if plain and found.layout in ("hf", "trtllm") else found.layout)
    formats = ", ".join(f"{count} {name}" for name, count in found.formats.items())
    yield f"[bold]{scheme}[/bold] in the {found.layout} layout, {found.architecture}, by {found.producer or 'unknown'}"
    built = " (trtllm-build rounds them)" if plain and found.quant_algo else ""
    yield f"linears: {formats}{built}; KV cache: {found.kv_cache or 'half precision'}"
    split = f"tp_size {found.tp_size}, pp_size {found.pp_size}: " if found.layout == "trtllm" else ""
    files = ", ".join(f"{name} {_mb(size)}" for name, size in list(found.files.items())[:8])
    yield f"{split}{files}{', ...' if len(found.files) > 8 else ''} MB"


def _sizes(found: Inspection) -> Table:
    table = _table("", "MB", "bf16 MB", "share")
    for kind, size in found.stored_bytes.items():
        table.add_row(kind, _mb(size), _mb(found.bf16_bytes[kind]), f"{size / found.bf16_bytes[kind]:.1%}")
    stored, half = sum(found.stored_bytes.values()), sum(found.bf16_bytes.values())
    table.add_row("all", _mb(stored), _mb(half), f"{stored / half:.1%}", style="bold")
    return table


def _layers(found: Inspection) -> Table:
    table = _table("layer", "formats", "weight scales", "largest input scale", "error")
    by_layer: dict[str, list[LinearFacts]] = {}
    for row in found.linears:
        by_layer.setdefault(next(part for part in row.module.split(".") if part.isdigit()), []).append(row)
    for layer, rows in by_layer.items():
        scales = [row for row in rows if row.scale_min is not None and row.scale_max is not None]
        low, high = _least(row.scale_min for row in scales), _most(row.scale_max for row in scales)
        table.add_row(
            layer,
            ", ".join(dict.fromkeys(row.format for row in rows)),
            "-" if low is None or high is None else f"{low:.3g} .. {high:.3g}",
            _number(_most(row.input_scale for row in rows)),
            _number(_most(row.error for row in rows)),
            style="yellow" if any(row.stands_out for row in rows) else None,
        )
    return table


def _verdict(found: Inspection) -> Iterator[str]:
    if set(found.formats) == {"plain"}:
        return
    what = "error against " + found.compared_with if found.compared_with else "largest scale"
    if not found.standing_out:
        yield f"no linear stands out by its {what}"
        return
    count = len(found.standing_out)
    stand = f"{count} linears stand out by their" if count > 1 else "1 linear stands out by its"
    yield f"[yellow]{stand} {what}[/yellow]"
    for row in found.standing_out[:_WORST]:
        yield f"  {row.module}  {_number(row.error if row.error is not None else row.scale_max)}"
    yield "  `quantization.exclude` keeps some in half precision; `trtllm-kit evaluate` tells what they cost"


def _table(*names: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, justify="left" if name in ("", "layer", "formats") else "right")
    return table


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size >= _MB else f"{size / 1e6:.3f}"
