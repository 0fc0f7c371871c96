"""What a GPU hour costs: a built-in table of sourced figures, and the user's own file, which wins where it speaks.

The user's file has either the table's columns (`sku,kind,usd_per_gpu_hour`, the others may be left out) or those of a
SkyPilot catalogue (`AcceleratorName,AcceleratorCount,Price,SpotPrice`).
"""

from __future__ import annotations

import csv
import datetime
import difflib
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from profiles import skus
from profiles.skus import Sku
from profiles.tables import rows
from trtllm_kit.errors import SpecError

Kind = Literal["on_demand", "spot", "reserved"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_KIND: Mapping[str, Kind] = {kind: kind for kind in KINDS}

_PLACEHOLDER_SHARE = 0.1  # regions without a spot market stand in the catalogues with exactly a tenth of the list price

_SKYPILOT_NAMES = {
    "T4": "t4",
    "A10G": "a10g",
    "A30": "a30",
    "A100": "a100_sxm_40gb",
    "A100-40GB": "a100_sxm_40gb",
    "A100-80GB": "a100_sxm_80gb",
    "A100-80GB-SXM": "a100_sxm_80gb",
    "A100-80G-PCIE": "a100_pcie_80gb",
    "L4": "l4",
    "L40S": "l40s",
    "RTX4090": "rtx_4090",
    "RTX5090": "rtx_5090",
    "RTXPRO6000": "rtx_pro_6000",
    "RTX-PRO-6000": "rtx_pro_6000",
    "H100": "h100_sxm",
    "H100-SXM": "h100_sxm",
    "H100-80G-SXM5": "h100_sxm",
    "H100-80G-PCIE": "h100_pcie",
    "H100-NVL": "h100_nvl",
    "H200": "h200_sxm",
    "H200-SXM": "h200_sxm",
    "GH200": "gh200_96gb",
    "B200": "b200_sxm",
    "GB200": "gb200",
    "B300": "b300_sxm",
    "GB300": "gb300",
}


@dataclass(frozen=True, kw_only=True)
class Price:
    """One offer of one GPU (or MIG slice) for one hour."""

    sku: str
    kind: Kind
    usd_per_gpu_hour: float
    provider: str
    region: str = ""
    estimate: bool  # no list price of the provider: spot of one day, a rule of thumb, or second-hand
    source: str
    date: datetime.date  # when the source was read; of a user's file, when it was last written
    note: str = ""

    def __str__(self) -> str:
        mark = "~" if self.estimate else ""
        return f"{mark}${self.usd_per_gpu_hour:.3f}/h {self.kind} at {self.provider or 'an unnamed provider'}"


@dataclass(frozen=True)
class PriceBook:
    """All offers, in no order."""

    prices: tuple[Price, ...]

    def offers(self, sku: Sku, kind: Kind = "on_demand", provider: str | None = None) -> list[Price]:
        """Offers for a SKU, cheapest first. A MIG slice costs its share of a GPU that is cut into equal slices."""
        whole = sku.whole_id or sku.id
        found = [
            price
            for price in self.prices
            if (price.sku, price.kind) == (whole, kind) and provider in (None, price.provider)
        ]
        found = [_of_slice(price, sku) if sku.whole_id else price for price in found]
        return sorted(found, key=lambda price: price.usd_per_gpu_hour)

    def cheapest(self, sku: Sku, kind: Kind = "on_demand", provider: str | None = None) -> Price | None:
        """The cheapest offer; None when nobody is known to offer it."""
        return next(iter(self.offers(sku, kind, provider)), None)

    def need(self, sku: Sku, kind: Kind = "on_demand", provider: str | None = None) -> Price:
        """The cheapest offer; SpecError when there is none."""
        found = self.cheapest(sku, kind, provider)
        if found is None:
            where = f" at {provider}" if provider else ""
            raise SpecError(
                f"no {kind} price of {sku.id} is known{where}",
                expected="a row for it in the price table",
                fix=f"give --price, or a file with the line `{sku.whole_id or sku.id},{kind},PRICE` by --prices",
            )
        return found


def load(path: Path | None = None) -> PriceBook:
    """The built-in table; where `path` has a SKU and kind, its offers replace the built-in ones."""
    if path is None:
        return PriceBook(_built_in())
    own = _read(path)
    theirs = {(price.sku, price.kind) for price in own}
    return PriceBook((*own, *(price for price in _built_in() if (price.sku, price.kind) not in theirs)))


def stale(prices: Iterable[Price], max_age_days: int, today: datetime.date | None = None) -> list[Price]:
    """Those that are older than the limit, each once."""
    now = today or datetime.datetime.now(datetime.timezone.utc).date()
    return [price for price in dict.fromkeys(prices) if (now - price.date).days > max_age_days]


@functools.cache
def _built_in() -> tuple[Price, ...]:
    return tuple(_price(row, origin="profiles/data/prices.csv") for row in rows("prices"))


def _of_slice(price: Price, sku: Sku) -> Price:
    return replace(
        price,
        sku=sku.id,
        usd_per_gpu_hour=float(price.usd_per_gpu_hour * sku.whole_share),
        note=f"{sku.whole_share} of {sku.whole_id}",
    )


def _read(path: Path) -> tuple[Price, ...]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            columns = set(table.fieldnames or ())
            lines = [{key: value or "" for key, value in row.items() if key} for row in table]
        written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.timezone.utc).date()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"{path} cannot be read as a price file: {error}", expected="a CSV file", fix=_FIX) from None
    if {"AcceleratorName", "Price"} <= columns:
        found = tuple(price for row in lines for price in _skypilot(row, path, written))
    elif {"sku", "kind", "usd_per_gpu_hour"} <= columns:
        found = tuple(_price({"date": str(written), **_filled(row)}, origin=str(path)) for row in lines)
    else:
        raise SpecError(
            f"{path} has the columns {', '.join(sorted(columns)) or 'none'}",
            expected="sku,kind,usd_per_gpu_hour or SkyPilot's AcceleratorName,AcceleratorCount,Price,SpotPrice",
            fix=_FIX,
        )
    if not found:
        raise SpecError(f"{path} has no price of a known SKU", expected="at least one row", fix=_FIX)
    return found


_FIX = "see docs/cost.md for the two forms of a price file"


def _filled(row: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in row.items() if value}


def _price(row: Mapping[str, str], origin: str) -> Price:
    kind = _KIND.get(row.get("kind", ""))
    if kind is None:
        near = difflib.get_close_matches(row.get("kind", ""), KINDS, n=1, cutoff=0.0)[0]
        raise SpecError(
            f"{origin}: the kind '{row.get('kind', '')}' of {row.get('sku') or 'a row without sku'}",
            expected="one of " + ", ".join(KINDS),
            fix=f"did you mean {near}?",
        )
    try:
        date = datetime.date.fromisoformat(row["date"])
    except ValueError:
        raise SpecError(f"{origin}: the date '{row['date']}'", expected="YYYY-MM-DD", fix=_FIX) from None
    return Price(
        sku=skus.find(row.get("sku", "")).id,
        kind=kind,
        usd_per_gpu_hour=_money(row.get("usd_per_gpu_hour", ""), origin),
        provider=row.get("provider", ""),
        region=row.get("region", ""),
        estimate=row.get("estimate", "no") == "yes",
        source=row.get("source", origin),
        date=date,
        note=row.get("note", ""),
    )


def _skypilot(row: Mapping[str, str], path: Path, written: datetime.date) -> Iterator[Price]:
    """The offers of one instance type, per GPU; rows of unknown accelerators and blank prices give none."""
    sku = _SKYPILOT_NAMES.get(row.get("AcceleratorName", "").upper())
    if sku is None:
        return
    count = _money(row.get("AcceleratorCount") or "1", str(path))
    on_demand, spot = row.get("Price", ""), row.get("SpotPrice", "")
    listed = _money(on_demand, str(path)) if on_demand else None
    offers: list[tuple[Kind, float]] = [("on_demand", listed)] if listed is not None else []
    if spot and _is_market_price(_money(spot, str(path)), listed):
        offers.append(("spot", _money(spot, str(path))))
    for kind, usd in offers:
        yield Price(
            sku=sku,
            kind=kind,
            usd_per_gpu_hour=usd / count,
            provider=path.resolve().parent.name,
            region=row.get("Region", ""),
            estimate=kind == "spot",
            source=f"{path} {row.get('InstanceType', '')}".strip(),
            date=written,
        )


def _is_market_price(spot: float, listed: float | None) -> bool:
    """The catalogues fill gaps with the list price itself or with a tenth of it."""
    return listed is None or (spot < listed and not math.isclose(spot, listed * _PLACEHOLDER_SHARE, rel_tol=1e-4))


def _money(cell: str, origin: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SpecError(f"{origin}: '{cell}' is no price", expected="dollars above 0", fix=_FIX)
    return value
