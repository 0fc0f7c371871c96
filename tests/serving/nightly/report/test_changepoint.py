"""Where a series jumped: against printed tables of Student's t, and by how often it is wrong."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.nightly.report.changepoint import FEWEST, SIGNIFICANCE, jumps, t_tail


@pytest.mark.parametrize(
    ("freedom", "t_05", "t_001"),
    [  # two-sided critical values, NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
        (1, 12.706, 636.619),
        (2, 4.303, 31.599),
        (3, 3.182, 12.924),
        (4, 2.776, 8.610),
        (5, 2.571, 6.869),
        (10, 2.228, 4.587),
        (11, 2.201, 4.437),
        (30, 2.042, 3.646),
        (100, 1.984, 3.390),
    ],
)
def test_tails_are_those_of_the_tables(freedom: int, t_05: float, t_001: float) -> None:
    assert t_tail(t_05, freedom) == pytest.approx(0.05, rel=2e-3)
    assert t_tail(t_001, freedom) == pytest.approx(0.001, rel=2e-3)
    assert t_tail(0.0, freedom) == pytest.approx(1.0)
    assert t_tail(math.inf, freedom) == 0.0


def noisy(level: float, count: int, share: float, source: random.Random) -> list[float]:
    return [level * math.exp(source.gauss(0, share)) for _ in range(count)]


@pytest.mark.parametrize("nights", [4, 8, 30])
def test_false_alarms_stay_below_the_level(nights: int) -> None:
    source, runs = random.Random(7), 1500
    alarms = sum(bool(jumps(noisy(1000, nights, 0.03, source))) for _ in range(runs))
    assert alarms / runs <= SIGNIFICANCE + 3 * math.sqrt(SIGNIFICANCE / runs)


def test_a_planted_step_is_found_where_it_was_planted() -> None:
    source, hits = random.Random(11), 0
    for _ in range(200):
        found = jumps([*noisy(1200, 12, 0.01, source), *noisy(1010, 5, 0.01, source)])
        hits += [jump.at for jump in found] == [12] and abs(found[0].change + 0.158) < 0.02
    assert hits >= 196


def test_two_steps_are_both_found() -> None:
    source = random.Random(5)
    series = [*noisy(1200, 10, 0.01, source), *noisy(1000, 10, 0.01, source), *noisy(1300, 10, 0.01, source)]
    found = jumps(series)
    assert [jump.at for jump in found] == [10, 20]
    assert [round(jump.before, -2) for jump in found] == [1200, 1000]
    assert [round(jump.after, -2) for jump in found] == [1000, 1300]


@given(st.lists(st.floats(1, 1e6), max_size=FEWEST - 1))
def test_too_few_say_nothing(values: list[float]) -> None:
    assert jumps(values) == []


@given(st.floats(1e-3, 1e6), st.integers(0, 40))
def test_what_never_changes_has_no_jump(value: float, count: int) -> None:
    assert jumps([value] * count) == []


def test_a_step_without_any_noise_is_found_and_a_tiny_one_does_not_matter() -> None:
    assert [jump.at for jump in jumps([1200.0] * 5 + [1010.0] * 3)] == [5]
    assert jumps([1200.0] * 5 + [1190.0] * 5) == []


def test_a_single_odd_night_is_no_step() -> None:
    assert jumps([*noisy(1200, 6, 0.01, random.Random(1)), 700.0, *noisy(1200, 6, 0.01, random.Random(2))]) == []
