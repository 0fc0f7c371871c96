"""`trtllm-kit build`: the whole model, or one stage of it."""

from __future__ import annotations

import time
from typing import Any

import click

from trtllm_kit.cli import options
from trtllm_kit.cli.session import BuildRequest


@click.group()
def build() -> None:
    """Build a model, or one stage of it. What is unchanged is skipped."""


_rebuild = click.option("--rebuild", is_flag=True, help="Forget what is in the store for this plan and build it anew.")


@build.command()
@options.build_options
@_rebuild
def model(rebuild: bool, **request: Any) -> None:
    """Quantize, compile, render and package: the artifact that `deploy` takes."""
    _build("package", rebuild, BuildRequest(**request))


@build.command()
@options.build_options
@_rebuild
def checkpoint(rebuild: bool, **request: Any) -> None:
    """Only the quantized checkpoint."""
    _build("quantize", rebuild, BuildRequest(**request))


@build.command()
@options.build_options
@_rebuild
def engine(rebuild: bool, **request: Any) -> None:
    """The quantized checkpoint and the engine."""
    _build("compile", rebuild, BuildRequest(**request))


@build.command()
@options.build_options
@_rebuild
def repository(rebuild: bool, **request: Any) -> None:
    """Only the Triton model repository."""
    _build("render", rebuild, BuildRequest(**request))


def _build(upto: str, rebuild: bool, request: BuildRequest) -> None:
    started = time.monotonic()
    pipeline = request.pipeline()
    if rebuild:
        pipeline.drop()
    reports = pipeline.reports(upto)
    done = pipeline.artifact() if upto == "package" else None
    folder = done or pipeline.run(upto, request.talk)
    result = {
        "identifier": str(pipeline.plan.identifier),
        "folder": str(folder),
        "unchanged": done is not None,
        "seconds": round(time.monotonic() - started, 2),
        "stages": [{"name": row.name, "action": row.action, "reason": row.reason} for row in reports],
    }
    if request.output == "json":
        options.show_json(result)
        return
    talk = request.talk
    if done is not None:
        talk.say("nothing to do: every input is unchanged")
    talk.say(f"{result['identifier']} in {result['seconds']} s")
    click.echo(folder)
