"""`trtllm-kit cost mix`: how many GPUs to reserve, and what to rent by the hour, for a demand over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from profiles import fleet, prices, skus
from profiles.cost import Worked
from trtllm_kit.cli import options
from trtllm_kit.cli.figures import show
from trtllm_kit.cli.price_options import PriceRequest, price_source_options
from trtllm_kit.errors import SpecError, UsageError

_POSITIVE = click.FloatRange(min=0, min_open=True)


_RATES = (
    click.option("--sku", help="Whose prices to take."),
    click.option("--on-demand", type=_POSITIVE, help="Dollars for a GPU hour, in place of the table's."),
    click.option("--reserved", type=_POSITIVE, help="The same, reserved."),
    click.option("--spot", type=_POSITIVE, help="The same, spot."),
)
_SHARE = click.FloatRange(0, 1)
_AT_LEAST_0 = click.FloatRange(min=0)

_rate_options = options.together(*_RATES, price_source_options)


@click.command()
@click.option("--trace", required=True, type=click.Path(path_type=Path), help="Tokens/s, a line an hour.")
@click.option("--gpu-tokens-per-s", required=True, type=_POSITIVE, help="What a GPU does.")
@_rate_options
@click.option("--spot-share", type=_SHARE, default=0.0, show_default=True, help="At most, of the flexible GPUs.")
@click.option("--interruptions-per-hour", type=_AT_LEAST_0, default=0.05, show_default=True, help="Of a spot GPU.")
@click.option("--recovery-minutes", type=_AT_LEAST_0, default=10.0, show_default=True, help="Until it is replaced.")
@click.option("--headroom", type=_AT_LEAST_0, default=0.0, show_default=True, help="0.2: a fifth more GPUs.")
@options.output
def mix(trace: Path, gpu_tokens_per_s: float, spot_share: float, headroom: float, output: str, **request: Any) -> None:
    """The cheapest mix of reserved, on-demand and spot GPUs for an hourly demand trace."""
    losses = {key: request.pop(key) for key in ("interruptions_per_hour", "recovery_minutes")}
    rates = _rates(request)
    if rates["on_demand"] is None:
        raise UsageError("no on-demand price", expected="--on-demand USD, or --sku", fix="give one of them")
    market = fleet.Market(on_demand=rates["on_demand"], reserved=rates["reserved"], spot=rates["spot"], **losses)
    gpus = fleet.gpus_needed(_trace(trace), gpu_tokens_per_s, headroom)
    found = fleet.best_mix(gpus, market, spot_share=spot_share)
    lines = [
        *found.worked,
        Worked("together", found.usd, "$", " + ".join(f"${line.value:,.2f}" for line in found.worked)),
        Worked("all on-demand", found.usd_on_demand_only, "$", f"{sum(gpus):,} GPU-h × ${market.on_demand:g}"),
        Worked("saved", 1 - found.usd / found.usd_on_demand_only, "%", "1 - together / all on-demand"),
        Worked(
            "blended rate", found.usd_per_served_gpu_hour, "$/GPU-h", f"together / {found.served_gpu_hours:,.0f} GPU-h"
        ),
    ]
    half, most = fleet.quantile(gpus, 0.5), fleet.quantile(gpus, 0.95)
    remark = f"{len(gpus)} hours, GPUs needed: half of them {half:g}, 95 % {most:g}, at most {max(gpus)}"
    show(lines, output, f"reserve {found.reserved_gpus}; {remark}")


@click.command()
@click.option("--share", "shares", multiple=True, required=True, metavar="KIND=SHARE", help="reserved=0.7; repeat.")
@_rate_options
@options.output
def blend(shares: tuple[str, ...], output: str, **request: Any) -> None:
    """The rate of a fixed mix of reserved, on-demand and spot GPUs."""
    wanted = dict(map(_share, shares))
    rates = _rates(request)
    missing = [kind for kind in wanted if rates[kind] is None]
    if missing:
        raise UsageError(f"no {missing[0]} price", expected=f"--{missing[0].replace('_', '-')} USD", fix="give it")
    show([fleet.blend(wanted, {kind: rate for kind, rate in rates.items() if rate is not None})], output)


def _share(text: str) -> tuple[str, float]:
    kind, _, share = text.partition("=")
    try:
        if kind in prices.KINDS:
            return kind, float(share)
    except ValueError:
        pass
    raise UsageError(f"--share {text}", expected="one of " + ", ".join(f"{kind}=0.5" for kind in prices.KINDS))


def _rates(request: dict[str, Any]) -> dict[str, float | None]:
    """Dollars for a GPU hour by kind: as given, else those of the SKU's cheapest offers; the options are used up."""
    rates: dict[str, float | None] = {kind: request.pop(kind) for kind in prices.KINDS}
    sku_id = request.pop("sku")
    asked = PriceRequest(**request)
    if sku_id is None:
        return rates
    book, sku = asked.book(), skus.find(sku_id)
    offers = {kind: book.cheapest(sku, kind, asked.provider) for kind in prices.KINDS if rates[kind] is None}
    found = {kind: offer for kind, offer in offers.items() if offer is not None}
    asked.warn_of_old(found.values())
    return {**rates, **{kind: offer.usd_per_gpu_hour for kind, offer in found.items()}}


def _trace(path: Path) -> list[float]:
    try:
        return [float(line) for line in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise SpecError(
            f"{path} cannot be read as a trace: {error}", expected="tokens/s of an hour on each line", fix="mend it"
        ) from None
