"""Options by which commands find the nights: `nightly.yaml`, if there is one, says in which depot they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.nightly.spec import NIGHTLY_NAME, Nightly, load
from trtllm_kit.cli import options
from trtllm_kit.cli.session import open_store

if TYPE_CHECKING:
    from builder.depot import Depot

_OPTIONS = (
    click.option(
        "-f",
        "--file",
        "nightly_path",
        type=click.Path(path_type=Path),
        help=f"The matrix, which names the depot.  [default: {NIGHTLY_NAME}, if it is there]",
    ),
    click.option("--depot", "depot_url", metavar="URL", help="Where the nights are, if no matrix says so."),
    options.store,
    options.output,
)

nights_options = options.together(*_OPTIONS)
"""All of them."""


@dataclass(frozen=True, kw_only=True)
class NightsRequest:
    """The options as click hands them over."""

    nightly_path: Path | None
    depot_url: str | None
    store_root: Path | None

    @cached_property
    def nightly(self) -> Nightly | None:
        """The file that was named, else the one in this folder, if it is there."""
        if self.nightly_path is None and not Path(NIGHTLY_NAME).exists():
            return None
        return load(self.nightly_path or Path(NIGHTLY_NAME))

    def depot(self) -> Depot:
        """Of --depot, else of the matrix, else $TRTLLM_KIT_DEPOT, else the one in the store."""
        from builder.depot.depot import Depot, default_url

        store, nightly = open_store(self.store_root), self.nightly
        return Depot.open(self.depot_url or (nightly.depot_url(store) if nightly else default_url(store)))
