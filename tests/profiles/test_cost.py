"""Money for tokens: worked numbers, and that every formula inverts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import cost
from profiles.cost import Flow, figure
from trtllm_kit.errors import SpecError

dollars = st.floats(0.01, 1e4)
speeds = st.floats(0.1, 1e7)


def test_3_50_an_hour_at_1000_tokens_a_second() -> None:
    assert cost.per_million(3.5, 1000).value == pytest.approx(0.97222, abs=5e-6)
    assert cost.per_million(2 * 3.5, 1000).value == pytest.approx(1.94444, abs=5e-6)
    assert cost.required_tokens_per_s(3.5, 1).value == pytest.approx(972.222, abs=5e-4)
    assert cost.required_tokens_per_s(3.5, 0.5).value == pytest.approx(1944.44, abs=5e-3)
    assert cost.tokens_per_dollar(3.5, 1000).value == pytest.approx(1_028_571, abs=1)


def test_an_hour_is_not_a_second() -> None:
    """$4.20/M at $3.50/h is 231.5 tokens/s; 833 tokens/s would cost $1.167/M."""
    assert cost.required_tokens_per_s(3.5, 4.2).value == pytest.approx(231.48, abs=0.01)
    assert cost.per_million(3.5, 833).value == pytest.approx(1.167, abs=5e-4)


def test_2520_a_month_against_an_api_of_90_cents() -> None:
    tokens, sustained, load = cost.break_even(2520, 0.9, 1000)
    assert tokens.value == pytest.approx(2.8e9)  # billions, not millions
    assert sustained.value == pytest.approx(1080.2, abs=0.05)
    assert load.value == pytest.approx(1.0802, abs=5e-5)  # more than the replica can do
    assert cost.saving(2520, 0.9, 10e6).value == pytest.approx(9 - 2520)
    assert cost.saving(2520, 0.9, 100e9).value == pytest.approx(90_000 - 2520)


def test_input_is_five_eighths_of_a_rag_bill() -> None:
    """2,000 tokens in, 400 out, output three times as dear: input is 62.5 % of the money."""
    flow = Flow(input_per_s=2000, cached_per_s=0, output_per_s=400, output_ratio=3, cached_ratio=0.1)
    price = {line.name: line.value for line in cost.token_prices(3.5, flow)}
    assert price["output"] == pytest.approx(3 * price["input"])
    bill = 2000 * price["input"], 400 * price["output"]
    assert bill[0] / sum(bill) == pytest.approx(0.625)


@pytest.mark.parametrize(("tflops", "share"), [(50, 0.1603), (200, 0.641), (250, 0.801)])
def test_mfu_of_an_a100(tflops: float, share: float) -> None:
    tokens_per_s = tflops * 1e12 / (2 * 8e9)
    assert cost.mfu(tokens_per_s, 8e9, 312).value == pytest.approx(share, abs=5e-4)


def test_1000_tokens_of_an_8b_are_5_percent_of_an_a100() -> None:
    assert cost.mfu(1000, 8e9, 312).value == pytest.approx(0.0513, abs=5e-5)
    assert cost.per_million(3.5, 0.65 * 312e12 / 16e9).value == pytest.approx(0.077, abs=5e-4)


@pytest.mark.parametrize(("bits", "milliseconds"), [(16, 70), (8, 35), (4, 17.5)])
def test_2_tb_a_second_read_70b_weights(bits: float, milliseconds: float) -> None:
    assert cost.decode_floor(70e9 * bits / 8, 2000).value == pytest.approx(milliseconds)


def test_mbu_is_1_when_every_step_takes_what_its_bytes_take() -> None:
    step_s = (140e9 + 8 * 1e9) / 2000e9
    assert cost.mbu(8 / step_s, 8, 140e9, 1e9, 2000).value == pytest.approx(1)


@given(usd=dollars, target=dollars)
def test_price_and_speed_are_inverse(usd: float, target: float) -> None:
    assert cost.per_million(usd, cost.required_tokens_per_s(usd, target).value).value == pytest.approx(target)


@given(usd=dollars, speed=speeds)
def test_dollars_for_tokens_are_tokens_for_dollars(usd: float, speed: float) -> None:
    assert cost.per_million(usd, speed).value * cost.tokens_per_dollar(usd, speed).value == pytest.approx(1e6)


@given(usd=dollars, api=dollars)
def test_at_break_even_nothing_is_saved(usd: float, api: float) -> None:
    tokens, sustained = cost.break_even(usd, api, None)
    assert cost.saving(usd, api, tokens.value).value == pytest.approx(0, abs=1e-6 * usd)
    hourly = usd / cost.HOURS_PER_MONTH
    assert cost.per_million(hourly, sustained.value).value == pytest.approx(api)


@given(
    usd=dollars,
    flow=st.builds(
        Flow, input_per_s=speeds, cached_per_s=speeds, output_per_s=speeds, output_ratio=dollars, cached_ratio=dollars
    ),
)
def test_token_prices_pay_for_the_hour_exactly(usd: float, flow: Flow) -> None:
    price = [line.value for line in cost.token_prices(usd, flow)]
    sold = (flow.input_per_s, flow.cached_per_s, flow.output_per_s)
    earned = sum(each * tokens for each, tokens in zip(price, sold, strict=True)) * 3600 / 1e6
    assert earned == pytest.approx(usd)


@given(prefill=speeds, share=st.floats(0.01, 0.99), output=speeds)
def test_the_output_ratio_fills_the_second(prefill: float, share: float, output: float) -> None:
    ratio = cost.output_ratio(prefill, share * prefill, output).value
    assert share + output * ratio / prefill == pytest.approx(1)


def test_every_figure_comes_with_its_numbers() -> None:
    assert str(cost.per_million(3.5, 1000)) == (
        "price of a million tokens = $3.5/h × 1,000,000 / (1,000 tokens/s × 3,600 s) = $0.97222/M"
    )
    assert figure(-2511, "$") == "-$2,511.00"


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_no_price_of_nothing(speed: float) -> None:
    with pytest.raises(SpecError):
        cost.per_million(3.5, speed)


def test_more_input_than_prefill_can_do_is_refused() -> None:
    with pytest.raises(SpecError, match="more than"):
        cost.output_ratio(100, 200, 1)
