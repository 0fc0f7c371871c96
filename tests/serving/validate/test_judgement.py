"""What is concluded from levels: physics, expectation, saturation, the bill, and differences beyond noise."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from builder.plan import ValidationPlan
from profiles import model_shape, performance, skus
from profiles.cost import Worked
from profiles.performance import Setup
from serving.load.records import RecordWriter
from serving.load.slo import parse_slo
from serving.validate.bill import bill
from serving.validate.compare import compare
from serving.validate.expectation import expectation
from serving.validate.load import Load
from serving.validate.noise import t_quantile
from serving.validate.physics import physics, roofline_tokens_per_s
from serving.validate.saturation import Search, find_max, interval, judge_search
from serving.validate.sides import side_of

PLAN = ValidationPlan(
    concurrencies=(1,),
    requests_per_level=6,
    input_len=128,
    output_len=64,
    ttft_p95_ms=None,
    tpot_p95_ms=None,
    min_output_tokens_per_s=None,
)
LOAD = Load(plan=PLAN, slo=parse_slo("ttft:500ms"))


@pytest.fixture
def setup() -> Setup:
    shape = model_shape.find("llama-3.1-8b-instruct")
    return Setup(shape=shape, precision="bf16", kv_bits=16, sku=skus.find("h100_sxm"), tp_size=1)


def test_the_roofline_of_one_user_is_the_time_to_read_the_weights(setup: Setup) -> None:
    bandwidth = setup.sku.bandwidth_gbs * 1e9
    weights = 2 * setup.shape.linear_params
    ceiling = roofline_tokens_per_s(setup, 1, 1, 1, fresh_prompts=False)
    assert ceiling == pytest.approx(bandwidth / weights, rel=0.01)


def test_many_users_share_the_reading_until_the_arithmetic_is_the_limit(setup: Setup) -> None:
    """Where prefill dominates, output tokens/s cannot exceed peak FLOP/s over 2 FLOP for each parameter and token."""
    ceiling = roofline_tokens_per_s(setup, 4096, 64, 512)
    flops = setup.sku.dense_tflops["bf16"] * 1e12
    per_output = 2 * setup.shape.linear_params * (4096 / 64 + 1)
    assert ceiling == pytest.approx(flops / per_output, rel=0.05)


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_what_is_predicted_is_below_the_roofline_and_passes(setup: Setup, level, concurrency: int) -> None:
    predicted = performance.at_concurrency(setup, 128, 64, concurrency).output_tokens_per_s
    measured = level(concurrency=concurrency, output_tokens_per_s=predicted.value)
    assert physics([measured], rtt_ms=0.1, setup=setup).status == "pass"
    assert expectation([measured], setup=setup, why_no_setup="", baseline=None).status == "pass"


def test_more_than_the_roofline_is_wrong(setup: Setup, level) -> None:
    ceiling = roofline_tokens_per_s(setup, 128, 64, 8)
    found = physics([level(concurrency=8, output_tokens_per_s=1.1 * ceiling)], rtt_ms=None, setup=setup)
    assert found.status == "fail"
    assert "wrong, not fast" in found.reasons[0] and "roofline" in found.reasons[0]


def test_a_first_token_before_a_signal_could_be_back_is_wrong(level) -> None:
    found = physics([level(least_ttft_ms=3.0)], rtt_ms=8.0, setup=None, why_no_setup="it is the cpu")
    assert found.status == "fail" and "round trip is 8 ms" in found.reasons[0]
    assert found.reasons[-1] == "no roofline: it is the cpu"
    assert physics([level(least_ttft_ms=9.0)], rtt_ms=8.0, setup=None).status == "pass"


def test_expectation_warns_before_it_fails(setup: Setup, level) -> None:
    low = performance.at_concurrency(setup, 128, 64, 4).output_tokens_per_s.low

    def status(rate: float, half: float | None = None) -> str:
        measured = level(concurrency=4, output_tokens_per_s=rate, output_tokens_per_s_ci=half)
        return expectation([measured], setup=setup, why_no_setup="", baseline=None).status

    assert status(0.9 * low) == "fail"
    assert status(0.9 * low, half=0.2 * low) == "warn", "its own interval reaches into the prediction's"
    assert status(100 * low) == "warn", "too fast is suspicious, not a failure"
    open_loop = level(concurrency=4, output_tokens_per_s=0.1 * low, rate=0.5)
    found = expectation([open_loop], setup=setup, why_no_setup="", baseline=None)
    assert found.status == "pass", "an open loop is no faster than it is asked to be"


def test_without_setup_and_baseline_nothing_is_expected(level) -> None:
    found = expectation([level()], setup=None, why_no_setup="it is the cpu", baseline=None)
    assert found.status == "skipped" and found.reasons[0] == "no prediction: it is the cpu"


def test_the_bill_is_the_price_over_the_tokens(level) -> None:
    hour = Worked("an hour of the replica", 3.6, "$/h", "given")
    slow = level(output_tokens_per_s=100.0, good_tokens_per_s=100.0)
    fast = level(concurrency=8, output_tokens_per_s=1000.0, good_tokens_per_s=50.0)
    found = bill([slow, fast], hour, "")
    assert found["per_million"]["usd"] == pytest.approx(3.6 / 3600 / 1000 * 1e6)
    assert found["per_million_within_slo"]["usd"] == pytest.approx(3.6 / 3600 / 100 * 1e6)
    assert found["per_million_within_slo"]["level"] == "concurrency 1"
    assert bill([slow], None, "no price of cpu") == {"why_not": "no price of cpu"}


def server(level, *, holds_to: float, flaky: tuple[float, ...] = ()):
    """A run whose share of good requests falls at a load; values of `flaky` hold the first time only."""
    asked: list[float] = []

    def run(offer):
        value = offer.rate if offer.rate is not None else float(offer.concurrency)
        good = value <= holds_to and not (value in flaky and value in asked)
        asked.append(value)
        return level(name=offer.name, concurrency=value, rate=offer.rate, good_share=1.0 if good else 0.5)

    return run, asked


@pytest.mark.parametrize("holds_to", [1, 2, 3, 7, 8, 100, 129])
def test_the_highest_concurrency_is_found_exactly(level, holds_to: int) -> None:
    run, asked = server(level, holds_to=holds_to)
    found = find_max(Search(kind="concurrency"), LOAD, run)
    assert found.best <= holds_to < found.beyond and found.confirmed
    assert found.beyond == found.best + 1 or found.beyond / found.best <= 1.08
    assert len(asked) < 20


@pytest.mark.parametrize("holds_to", [0.3, 1.0, 5.5, 333.0])
def test_the_highest_rate_lies_between_its_ends(level, holds_to: float) -> None:
    run, _ = server(level, holds_to=holds_to)
    found = find_max(Search(kind="rate"), LOAD, run)
    assert found.best <= holds_to < found.beyond and found.beyond / found.best <= 1.08
    assert judge_search(found)[0] == "pass"


def test_a_level_that_holds_only_once_is_not_the_answer(level) -> None:
    run, _ = server(level, holds_to=8, flaky=(8.0,))
    found = find_max(Search(kind="concurrency"), LOAD, run)
    assert found.best == 7 and found.beyond == 8 and found.confirmed


def test_nothing_holds_and_everything_holds(level) -> None:
    nothing = find_max(Search(kind="concurrency"), LOAD, server(level, holds_to=0)[0])
    assert nothing.best is None and judge_search(nothing)[0] == "fail"
    everything = find_max(Search(kind="concurrency", most=64), LOAD, server(level, holds_to=1e9)[0])
    assert everything.best == 64 and everything.beyond is None
    assert "nothing higher was tried" in judge_search(everything)[1][0]


def test_a_search_ends_with_the_server(level) -> None:
    found = find_max(Search(kind="rate"), LOAD, lambda offer: level(name=offer.name, reason="unreachable"))
    assert found.ended == "unreachable" and found.best is None


def test_wilsons_interval() -> None:
    # Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662; 0 of 20 is 0 to 0.1611
    assert interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert interval(0.0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("share", "freedom", "published"),
    [(0.975, 4, 2.776), (0.975, 10, 2.228), (0.975, 19, 2.093), (0.995, 9, 3.250), (0.9995, 19, 3.883)],
)
def test_students_t(share: float, freedom: int, published: float) -> None:
    assert t_quantile(share, freedom) == pytest.approx(published, rel=0.012)


@pytest.fixture
def side(level, record, tmp_path: Path):
    """`side("a", itl_s=0.005, seed=1)`: 400 requests whose speed drifts together, as those of a real server do."""

    def make(name: str, *, itl_s: float, seed: int):
        source, drift = random.Random(seed), 0.0
        writer = RecordWriter(tmp_path / name / "runs/01")
        ttfts = []
        for number in range(400):
            drift = 0.8 * drift + source.gauss(0, 0.02)
            ttfts.append(0.05 * (1 + drift) + abs(source.gauss(0, 0.004)))
            writer.write(record(at_s=0.15 * number, ttft_s=ttfts[-1], itl_s=itl_s * (1 + drift)))
        writer.close()
        median_ms = 1e3 * sorted(ttfts)[200]
        seen = level(ttft_ms=median_ms, tpot_ms=1e3 * itl_s, window={"start_s": 0.0, "end_s": 60.0, "why": ""})
        return side_of([replace(seen, output_tokens_per_s=400 * 10 / 60).to_json()], tmp_path / name, name=name)

    return make


def test_equal_servers_are_seldom_called_different(side) -> None:
    called = 0
    for pair in range(12):
        found = compare(side(f"a{pair}", itl_s=0.005, seed=2 * pair), side(f"b{pair}", itl_s=0.005, seed=2 * pair + 1))
        called += found.worse
    assert called <= 1


def test_a_slower_server_is_called_slower_where_it_is(side) -> None:
    found = compare(side("a", itl_s=0.005, seed=1), side("b", itl_s=0.008, seed=2))
    status = {row.metric: row.status for row in found.rows}
    assert found.worse
    assert status["TPOT p50"] == status["TPOT mean"] == status["ITL p50"] == "worse"
    assert status["TTFT p50"] == "same"
    row = next(row for row in found.rows if row.metric == "TPOT p50")
    assert row.change == pytest.approx(0.6) and 0 < row.low < 0.6 < row.high
    back = compare(side("c", itl_s=0.008, seed=3), side("d", itl_s=0.005, seed=4))
    assert {row.metric: row.status for row in back.rows}["TPOT p50"] == "better" and not back.worse


def test_a_tail_of_few_requests_is_not_judged(side) -> None:
    found = compare(side("a", itl_s=0.005, seed=1), side("b", itl_s=0.005, seed=2))
    assert {row.metric: row.status for row in found.rows}["TTFT p99"] == "unknown", "4 of 400 lie beyond it"
