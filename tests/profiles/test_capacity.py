"""The planner: which configurations there are, what the front is, and what is chosen."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from profiles import capacity, choice, prices, support
from profiles.capacity import Demand, Space
from profiles.fit_check import check_fits
from profiles.model_shape import find as model
from profiles.skus import find
from trtllm_kit.errors import FitError, PerformanceError, SpecError

LOAD = Demand(isl=1024, osl=256)
BOOK = prices.load()


def space(*sku_ids: str, name: str = "llama-3.1-8b", **keys: object) -> Space:
    return Space(shape=model(name), skus=[find(sku_id) for sku_id in sku_ids], **keys)  # type: ignore[arg-type]


def test_every_configuration_is_possible_and_fits() -> None:
    found = list(capacity.configurations(space("h100_sxm", "b200_sxm", "a100_sxm_40gb"), LOAD))
    assert {row.sku.id for row in found} == {"h100_sxm", "b200_sxm", "a100_sxm_40gb"}
    for row in found:
        support.check(row.runtime, row.precision, row.kv_dtype, row.sku, row.setup.trtllm_version)
        assert row.max_batch_size >= 1
        assert row.setup.kv_memory_bytes > 0
    assert not any(row.precision == "fp8" and row.sku.arch == "Ampere" for row in found)
    assert any(row.precision == "nvfp4" and row.sku.id == "b200_sxm" for row in found)


def test_what_does_not_fit_is_no_candidate() -> None:
    sizes = {
        row.tp_size
        for row in capacity.configurations(space("h100_sxm", name="llama-3.1-70b", precisions=["bf16"]), LOAD)
    }
    assert sizes == {2, 4, 8}


def test_slices_are_candidates_and_stay_alone() -> None:
    found = list(capacity.configurations(space("h100_sxm:3g.40gb"), LOAD))
    assert {(row.tp_size, row.pp_size, row.gpus) for row in found} == {(1, 1, 0.5)}
    every = capacity.every_sku()
    assert {"h100_sxm_1g_10gb", "a30_2g_12gb"} <= {sku.id for sku in every}
    assert not {"t4", "cpu", "h100_sxm_7g_80gb"} & {sku.id for sku in every}


def test_pipelines_are_for_gpus_without_nvlink() -> None:
    assert {row.pp_size for row in capacity.configurations(space("h100_sxm", max_gpus=8), LOAD)} == {1}
    assert {row.pp_size for row in capacity.configurations(space("l40s", max_gpus=8), LOAD)} == {1, 2, 4, 8}
    large = {(row.tp_size, row.pp_size) for row in capacity.configurations(space("h100_sxm", max_gpus=16), LOAD)}
    assert (8, 2) in large


def test_nothing_on_the_front_is_beaten_and_all_else_is() -> None:
    made = choice.plan(space("h100_sxm", "l40s"), LOAD, BOOK)
    front = [(point.tokens_per_s_per_gpu, point.tokens_per_s_per_user) for point in made.front]
    for point in made.every:
        mine = point.tokens_per_s_per_gpu, point.tokens_per_s_per_user
        beaten = any(a >= mine[0] and b >= mine[1] and (a, b) != mine for a, b in front)
        assert beaten != (mine in front)


def test_the_choice_is_the_cheapest_that_meets_the_limits() -> None:
    limits = replace(LOAD, ttft_ms=2000, tpot_ms=30)
    made = choice.plan(space("h100_sxm", "h200_sxm", "l4"), limits, BOOK)
    assert limits.excess(made.chosen.seen) <= 1
    meeting = [point for point in made.best if limits.excess(point.seen) <= 1]
    cheapest = min(point.usd_per_million for point in meeting if point.usd_per_million)
    assert made.chosen.usd_per_million is not None
    assert made.chosen.usd_per_million <= 1.02 * cheapest
    assert "TTFT <= 2000 ms and TPOT <= 30 ms" in made.why


def test_a_tighter_limit_never_makes_it_cheaper() -> None:
    usd = []
    for tpot_ms in (200, 50, 25, 12):
        chosen = choice.plan(space("h100_sxm"), replace(LOAD, tpot_ms=tpot_ms), BOOK).chosen
        assert chosen.usd_per_million is not None
        usd.append(chosen.usd_per_million)
    assert all(tight >= loose * 0.98 for loose, tight in itertools.pairwise(usd))


def test_prices_decide_between_skus() -> None:
    dear = prices.PriceBook(
        tuple(replace(price, usd_per_gpu_hour=1000.0) if price.sku == "h100_sxm" else price for price in BOOK.prices)
    )
    assert choice.plan(space("h100_sxm", "l40s"), LOAD, dear).chosen.configuration.sku.id == "l40s"


def test_without_a_price_speed_decides() -> None:
    made = choice.plan(space("h100_sxm"), LOAD, prices.PriceBook(()))
    assert made.chosen.usd_per_million is None
    assert made.chosen.tokens_per_s_per_gpu == max(point.tokens_per_s_per_gpu for point in made.best)
    assert "no price is known" in made.why


def test_a_limit_that_nothing_meets_is_said_with_the_miss() -> None:
    with pytest.raises(PerformanceError) as caught:
        choice.plan(space("l4"), replace(LOAD, ttft_ms=0.1), BOOK)
    assert caught.value.exit_code == 7
    assert "over 0.1 ms" in caught.value.happened


def test_what_fits_nowhere_is_refused_with_the_ledger() -> None:
    with pytest.raises(FitError) as caught:
        choice.plan(space("l4", name="llama-3.1-405b", max_gpus=1), LOAD, BOOK)
    assert "linear weights" in caught.value.happened
    assert "target." in caught.value.fix


def test_what_is_impossible_is_refused_with_the_reason() -> None:
    with pytest.raises(SpecError, match="FP8 needs Ada or newer"):
        choice.plan(space("a100_sxm_80gb", precisions=["fp8"]), LOAD, BOOK)
    with pytest.raises(SpecError, match="not confirmed"):
        choice.plan(space("gh200_96gb"), LOAD, BOOK)
    with pytest.raises(SpecError, match="does not support Turing"):
        choice.plan(space("t4"), LOAD, BOOK)


def test_the_pool_that_a_prediction_gets_is_that_of_the_ledger() -> None:
    for place, precision, kv_dtype in capacity.placements(space("h100_sxm", precisions=["fp8"]), LOAD):
        assert (precision, kv_dtype, place.limits.runtime) == ("fp8", "fp8", "tensorrt")
        found = capacity.configure(place, precision, kv_dtype, "1.2.1")
        assert found is not None
        held = check_fits(place.with_limits(max_batch_size=found.max_batch_size))
        assert found.setup.kv_memory_bytes == held.kv_pool_bytes
