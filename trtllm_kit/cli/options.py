"""Every option that more than one command has, written once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from trtllm_kit.spec import RUNTIMES, SPEC_NAME

_F = TypeVar("_F", bound=Callable[..., Any])

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
output = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the result."
)
quiet = click.option("-q", "--quiet", is_flag=True, help="Only results, warnings and errors.")
model = click.option("--model", help="Hugging Face id (org/name@revision) or folder.")
precision = click.option("--precision", help="Weights and activations: bf16, fp16, int8_wo.")
sku = click.option("--sku", help="The GPU SKU to build for, e.g. h100_sxm, l40s or cpu.")
runtime = click.option("--runtime", type=click.Choice(list(RUNTIMES)), help="Which runtime serves it.")

_BUILD = (spec, overrides, store, model, precision, sku, runtime, output, quiet)


def build_options(command: _F) -> _F:
    """All options of commands that resolve a spec."""
    for option in reversed(_BUILD):
        command = option(command)
    return command


def show_json(value: Any) -> None:
    """A result as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
