"""Reserved, on-demand and spot GPUs over a trace."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.fleet import Market, best_mix, blend, gpus_needed, quantile
from trtllm_kit.errors import SpecError

A100 = Market(on_demand=3.5, reserved=2.1, spot=1.05)
PRICES = {"reserved": 2.1, "on_demand": 3.5, "spot": 1.05}


def test_blended_rates() -> None:
    assert blend({"reserved": 0.7, "on_demand": 0.3}, PRICES).value == pytest.approx(2.52)
    assert blend({"reserved": 0.7, "on_demand": 0.2, "spot": 0.1}, PRICES).value == pytest.approx(2.275)
    with pytest.raises(SpecError):
        blend({"reserved": 0.7, "on_demand": 0.2}, PRICES)


def test_a_gpu_is_reserved_when_it_is_needed_often_enough() -> None:
    """At 0.6 of the on-demand price a reservation pays from 60 % of the hours on."""
    for busy, reserved in ((5, 0), (6, 0), (7, 1)):
        assert best_mix([1] * busy + [0] * (10 - busy), A100).reserved_gpus == reserved


def test_interrupted_spot_is_replaced_at_the_on_demand_price() -> None:
    found = best_mix([10] * 100, Market(on_demand=4, reserved=None, spot=1, interruptions_per_hour=0.3), spot_share=1)
    assert found.gpu_hours["spot"] == 1000
    assert found.usd == pytest.approx(1000 * 1 + 1000 * 0.3 * 10 / 60 * 4)


def test_spot_that_is_lost_too_often_is_not_taken() -> None:
    lost = Market(on_demand=4, reserved=None, spot=1, interruptions_per_hour=6, recovery_minutes=10)
    assert best_mix([10] * 100, lost, spot_share=1).gpu_hours["spot"] == 0


def test_demand_becomes_whole_gpus() -> None:
    assert gpus_needed([0, 1, 299, 300, 301], 300) == [0, 1, 1, 1, 2]
    assert gpus_needed([300], 300, headroom=0.2) == [2]
    assert quantile([1, 2, 3, 4], 0.5) == 2


@pytest.mark.parametrize("trace", [[], [0, 0]])
def test_a_trace_without_demand_is_refused(trace: list[int]) -> None:
    with pytest.raises(SpecError):
        best_mix(trace, A100)


@pytest.mark.parametrize("demand", [-1, float("nan"), float("inf")])
def test_a_demand_that_is_none_is_refused(demand: float) -> None:
    with pytest.raises(SpecError):
        gpus_needed([demand], 300)


@settings(max_examples=60)
@given(
    gpus=st.lists(st.integers(0, 20), min_size=1, max_size=60).filter(any),
    reserved=st.floats(0.1, 5),
    spot=st.floats(0.1, 5),
    share=st.floats(0, 1),
)
def test_the_mix_is_never_dearer_than_renting_and_serves_every_hour(
    gpus: list[int], reserved: float, spot: float, share: float
) -> None:
    found = best_mix(gpus, Market(on_demand=3.5, reserved=reserved, spot=spot), spot_share=share)
    assert found.usd <= found.usd_on_demand_only * (1 + 1e-9)
    beyond = sum(max(0, need - found.reserved_gpus) for need in gpus)
    assert found.gpu_hours["spot"] + found.gpu_hours["on_demand"] >= beyond
    assert found.usd == pytest.approx(sum(line.value for line in found.worked))
