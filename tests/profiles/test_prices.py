"""Prices of GPU hours: the built-in table, and files of the user's own in both forms."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest

from profiles import prices
from profiles.skus import find, skus
from trtllm_kit.errors import SpecError

BUILT_IN = prices.load()


@pytest.mark.parametrize("price", BUILT_IN.prices, ids=lambda price: f"{price.sku}-{price.kind}-{price.provider}")
def test_every_built_in_price_has_a_source_and_says_whether_it_is_an_estimate(price: prices.Price) -> None:
    assert price.sku in skus()
    assert price.source
    assert price.provider
    assert 0.1 < price.usd_per_gpu_hour < 20
    if price.kind != "on_demand":
        assert price.estimate


def test_what_is_cheaper_comes_first_and_a_provider_can_be_asked_for() -> None:
    offers = BUILT_IN.offers(find("h100_sxm"))
    assert [offer.usd_per_gpu_hour for offer in offers] == sorted(offer.usd_per_gpu_hour for offer in offers)
    assert BUILT_IN.need(find("h100_sxm"), provider="aws").usd_per_gpu_hour == 6.88
    assert BUILT_IN.need(find("a100_sxm_80gb"), provider="aws").usd_per_gpu_hour == pytest.approx(3.431)


def test_a_slice_costs_its_share() -> None:
    whole = BUILT_IN.need(find("h100_sxm"))
    assert BUILT_IN.need(find("h100_sxm:3g.40gb")).usd_per_gpu_hour == whole.usd_per_gpu_hour / 2
    assert BUILT_IN.need(find("h100_sxm:1g.10gb")).usd_per_gpu_hour == pytest.approx(whole.usd_per_gpu_hour / 7)


def test_a_price_that_nobody_knows_is_an_error_with_a_way_out() -> None:
    with pytest.raises(SpecError) as caught:
        BUILT_IN.need(find("gb300"))
    assert "gb300,on_demand,PRICE" in caught.value.fix


def test_own_prices_replace_what_they_speak_of(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("sku,kind,usd_per_gpu_hour,provider,date\nh100_sxm,on_demand,9.99,us,2026-01-02\n")
    book = prices.load(file)
    (offer,) = book.offers(find("h100_sxm"))
    assert (offer.usd_per_gpu_hour, offer.provider, offer.date) == (9.99, "us", datetime.date(2026, 1, 2))
    assert book.offers(find("h100_sxm"), "spot") == BUILT_IN.offers(find("h100_sxm"), "spot")
    assert book.offers(find("l4")) == BUILT_IN.offers(find("l4"))


CATALOGUE = """InstanceType,AcceleratorName,AcceleratorCount,GpuInfo,Price,SpotPrice,Region
p5.48xlarge,H100,8,x,55.04,16.0,us-east-2
p5en.48xlarge,H200,8,x,,20.0,us-east-2
g6.xlarge,L4,1,x,0.8048,0.08048,ap-southeast-3
g6e.12xlarge,L40S,4,x,10.492,10.492,us-east-2
m5.large,,,,0.096,0.05,us-east-2
p3.2xlarge,V100,1,x,3.06,1.0,us-east-2
"""


def test_a_skypilot_catalogue_is_read_by_gpu_and_without_its_gap_fillers(tmp_path: Path) -> None:
    file = tmp_path / "aws" / "vms.csv"
    file.parent.mkdir()
    file.write_text(CATALOGUE)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    book = prices.load(file)
    own = [price for price in book.prices if str(file) in price.source]
    found = {(price.sku, price.kind): price.usd_per_gpu_hour for price in own}
    assert found == {
        ("h100_sxm", "on_demand"): 6.88,
        ("h100_sxm", "spot"): 2.0,
        ("h200_sxm", "spot"): 2.5,  # no list price
        ("l4", "on_demand"): 0.8048,  # a spot price of exactly a tenth is a placeholder
        ("l40s", "on_demand"): 2.623,  # a spot price that is the list price is no market
    }
    assert {price.provider for price in own} == {"aws"}
    assert {price.date for price in own} == {datetime.date(2023, 11, 14)}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2\n",
        "sku,kind,usd_per_gpu_hour\n",
        "sku,kind,usd_per_gpu_hour\nh100,on_demand,3\n",
        "sku,kind,usd_per_gpu_hour\nh100_sxm,rented,3\n",
        "sku,kind,usd_per_gpu_hour\nh100_sxm,spot,-3\n",
        "sku,kind,usd_per_gpu_hour\nh100_sxm,spot,cheap\n",
        "sku,kind,usd_per_gpu_hour,date\nh100_sxm,spot,3,soon\n",
        "AcceleratorName,Price\nV100,3\n",
    ],
)
def test_a_file_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text(content)
    with pytest.raises(SpecError):
        prices.load(file)


def test_a_file_that_is_not_there_or_binary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("absent", "binary"):
        with pytest.raises(SpecError):
            prices.load(tmp_path / name)


def test_old_prices_are_found() -> None:
    price = BUILT_IN.need(find("l4"))
    later = price.date + datetime.timedelta(days=31)
    assert prices.stale([price, price], 30, today=later) == [price]
    assert prices.stale([price], 31, today=later) == []
