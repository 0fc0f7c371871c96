"""The confidence sequence against its definition, and its error when one looks after every value."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.nightly.ab.sequence import median_interval, pairs_to_tell

VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=60)


def wealth(above: int, count: int) -> Fraction:
    """2 ∫ (2p)^above (2(1-p))^(count-above) dp from 1/2 to 1, term by term of the binomial in p."""
    below, total = count - above, Fraction(0)
    for k in range(below + 1):
        power = above + k + 1
        total += Fraction(math.comb(below, k) * (-1) ** k, power) * (1 - Fraction(1, 2**power))
    return 2 * 2**count * total


@pytest.mark.parametrize("count", [9, 10, 17, 40])
@pytest.mark.parametrize("error", [0.05, 1 / 160, 1e-6])
def test_an_end_stands_where_the_wealth_passes_one_over_the_error(count: int, error: float) -> None:
    values = [float(at) for at in range(count)]
    proofs = [above for above in range(count + 1) if 2 * above > count and wealth(above, count) >= 1 / Fraction(error)]
    low, high = median_interval(values, error)
    if not proofs:
        assert (low, high) == (-math.inf, math.inf)
    else:
        assert (low, high) == (values[count - proofs[0]], values[proofs[0] - 1])


def test_ten_pairs_that_agree_are_enough_for_four_metrics() -> None:
    assert median_interval([1.0] * 9, 0.05 / 8) == (-math.inf, math.inf)
    assert median_interval([1.0] * 10, 0.05 / 8) == (1.0, 1.0)


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_looking_after_every_pair_errs_no_more_often_than_promised(drift: float) -> None:
    """Heavy tails, and bursts that last: only that each sign is a fair toss is assumed."""
    error, runs, wrong = 0.05, 600, 0
    for seed in range(runs):
        source, values, burst = random.Random(seed), [], 1.0
        for _ in range(120):
            burst = burst if source.random() < drift else math.exp(source.gauss(0, 1))
            values.append(source.choice((-1, 1)) * burst * abs(source.gauss(0, 1) / max(source.random(), 1e-9)))
            if median_interval(values, error)[0] > 0:
                wrong += 1
                break
    assert wrong <= error * runs


@given(VALUES, st.floats(-3, 3), st.sampled_from([0.05, 0.01]))
def test_it_moves_with_the_values_and_turns_with_their_sign(values: list[float], shift: float, error: float) -> None:
    low, high = median_interval(values, error)
    assert median_interval([-value for value in values], error) == (-high, -low)
    moved = median_interval([value + shift for value in values], error)
    assert moved == pytest.approx((low + shift, high + shift))
    assert low <= sorted(values)[len(values) // 2] <= high


@given(VALUES)
def test_more_confidence_is_never_narrower(values: list[float]) -> None:
    low, high = median_interval(values, 0.05)
    surely = median_interval(values, 0.001)
    assert surely[0] <= low and high <= surely[1]


def test_how_many_pairs_would_tell() -> None:
    error = 0.05 / 8
    assert pairs_to_tell(5, 10, error) is None
    assert pairs_to_tell(6, 6, error) == 10
    total = pairs_to_tell(8, 10, error)
    assert total is not None
    above = round(0.8 * total)
    assert median_interval([1.0] * above + [-1.0] * (total - above), error)[0] > 0
