"""Options of every command that needs the price of a GPU hour."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from profiles import prices
from profiles.prices import Price, PriceBook
from profiles.skus import Sku
from trtllm_kit.cli import options
from trtllm_kit.console import StderrTalk
from trtllm_kit.errors import SpecError

_SOURCE = (
    click.option(
        "--prices",
        "prices_path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="TRTLLM_KIT_PRICES",
        help="Your own prices: sku,kind,usd_per_gpu_hour, or a SkyPilot catalogue.",
    ),
    click.option("--provider", help="Only offers of this provider.  [default: the cheapest of all]"),
    click.option(
        "--max-price-age", "max_age_days", type=click.IntRange(min=0), metavar="DAYS", help="Warn of older prices."
    ),
)
_KIND = click.option(
    "--kind", type=click.Choice(prices.KINDS), default="on_demand", show_default=True, help="How GPUs are rented."
)


@dataclass(frozen=True, kw_only=True)
class PriceRequest:
    """The options as click hands them over."""

    prices_path: Path | None
    provider: str | None
    max_age_days: int | None
    kind: prices.Kind = "on_demand"

    def book(self) -> PriceBook:
        """All offers; SpecError when the provider asked for has none."""
        found = prices.load(self.prices_path)
        known = sorted({price.provider for price in found.prices if price.provider})
        if self.provider is not None and self.provider not in known:
            near = difflib.get_close_matches(self.provider, known, n=1, cutoff=0.0)
            raise SpecError(
                f"no price of the provider '{self.provider}'",
                expected="one of " + ", ".join(known),
                fix=f"did you mean {near[0]}?" if near else "name the provider in your own file",
            )
        return found

    def of(self, sku: Sku) -> Price:
        """The cheapest offer for a SKU, with a warning when it is old; SpecError when there is none."""
        found = self.book().need(sku, self.kind, self.provider)
        self.warn_of_old([found])
        return found

    def warn_of_old(self, used: Iterable[Price]) -> None:
        """One line for each price that is older than the user's limit."""
        if self.max_age_days is None:
            return
        for price in prices.stale(used, self.max_age_days):
            StderrTalk().warn(
                f"the price of {price.sku} is of {price.date}, older than {self.max_age_days} days: {price},"
                f" {price.source}"
            )


price_source_options = options.together(*_SOURCE)
"""Where prices are from."""


price_options = options.together(*_SOURCE, _KIND)
"""Where they are from, and of which kind."""
