"""Every option that more than one command has, written once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from trtllm_kit.spec import RUNTIMES, SPEC_NAME

_F = TypeVar("_F", bound=Callable[..., Any])


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """A size such as 8GB, 512MB or 1.5GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes of `value`."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", str(value).strip(), re.IGNORECASE)
        if found is None:
            self.fail(f"'{value}' is no size: write 8GB, 512MB or 1.5GiB", param, ctx)
        number, prefix, binary = found.groups()
        return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))


class Time(click.ParamType):  # type: ignore[type-arg]  # as above
    """A time as people write it, more than 0; `units` are what it may be given in, and what each is worth."""

    name = "time"

    def __init__(self, units: Mapping[str, float], *, examples: str) -> None:
        self._units, self._examples = units, examples

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`value` in the unit that is worth 1."""
        if isinstance(value, float):
            return value
        number = str(value).rstrip("".join(self._units))
        try:
            time = float(number) * self._units[str(value)[len(number) :]]
        except (ValueError, KeyError):
            time = 0.0
        if not 0 < time < float("inf"):
            self.fail(f"'{value}' is no time; write e.g. {self._examples}", param, ctx)
        return time


SECONDS = Time({"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}, examples="30s, 2m or 500ms")
MILLISECONDS = Time({"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3}, examples="50, 50ms or 0.5s; without a unit it is ms")


spec = click.option(
    "-f",
    "--spec",
    "spec_path",
    type=click.Path(path_type=Path),
    default=SPEC_NAME,
    show_default=True,
    help="The spec file.",
)
overrides = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the spec, e.g. build.max_batch_size=32.",
)
store = click.option(
    "--store",
    "store_root",
    type=click.Path(path_type=Path),
    envvar="TRTLLM_KIT_STORE",
    help="Where builds are kept.  [default: trtllm-kit in the user's cache folder]",
)
depot = click.option(
    "--depot",
    "depot_url",
    envvar="TRTLLM_KIT_DEPOT",
    metavar="URL",
    help="What all who build share: a folder or s3://bucket/folder.  [default: depot in the store]",
)
output = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the result."
)
insecure = click.option("--insecure", is_flag=True, help="Speak http with a registry on this machine.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Only results, warnings and errors.")
model = click.option("--model", help="Hugging Face id (org/name@revision) or folder.")
precision = click.option(
    "--precision", help="Weights and activations: bf16, fp8, int4_awq, nvfp4, ...; see docs/quantization.md."
)
sku = click.option("--sku", help="The GPU SKU to build for, e.g. h100_sxm, l40s or cpu.")
runtime = click.option("--runtime", type=click.Choice(list(RUNTIMES)), help="Which runtime serves it.")

max_ram = click.option("--max-ram", type=Bytes(), help="Bound of the quantizer's memory, e.g. 8GB.")
max_vram = click.option("--max-vram", type=Bytes(), help="Bound of the quantizer's GPU memory, e.g. 20GB.")


def together(*several: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Options as one decorator; they stand in the help in this order."""

    def add(command: _F) -> _F:
        for option in reversed(several):
            command = option(command)
        return command

    return add


build_options = together(spec, overrides, store, model, precision, sku, runtime, max_ram, max_vram, output, quiet)
"""All options of commands that resolve a spec."""


def show_json(value: Any) -> None:
    """A result as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
