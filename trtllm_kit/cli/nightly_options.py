"""Options of the commands that plan a night."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.nightly.spec import NIGHTLY_NAME
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store
from trtllm_kit.console import StderrTalk

if TYPE_CHECKING:
    from serving.nightly.session import Session

matrix = click.option(
    "-f",
    "--file",
    "matrix_path",
    type=click.Path(path_type=Path),
    default=NIGHTLY_NAME,
    show_default=True,
    help="The matrix.",
)
_OPTIONS = (
    matrix,
    click.option("--only", metavar="GLOB", help="Only cells whose identifier matches, e.g. '*-{fp8,nvfp4}-*'."),
    click.option("--recheck", is_flag=True, help="Read every byte of the checkpoints, and not only what changed."),
    options.store,
    options.output,
    options.quiet,
)

planning_options = options.together(*_OPTIONS)
"""All of them."""


@dataclass(frozen=True, kw_only=True)
class PlanningRequest:
    """The options as click hands them over."""

    matrix_path: Path
    only: str | None
    recheck: bool
    store_root: Path | None
    output: str
    quiet: bool

    @property
    def talk(self) -> StderrTalk:
        return StderrTalk(quiet=self.quiet or self.output == "json")

    def session(self) -> Session:
        from serving.nightly.session import Session

        return Session(path=self.matrix_path, store=open_store(self.store_root), talk=self.talk, recheck=self.recheck)
