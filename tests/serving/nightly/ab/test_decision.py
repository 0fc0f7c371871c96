"""Decisions on rounds that were made up, so that the truth is known: 15 % slower, identical, at the very limit."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from serving.nightly.ab.contest import decide
from serving.nightly.ab.rounds import Round, Visit
from serving.nightly.ab.rule import Rule
from serving.nightly.ab.speed import Row, alone, judge

MOST_ROUNDS = 60


def rounds(
    slower: float, noise: float, seed: int, *, instance: float = 0.0, cold_start: float = 1.0
) -> Iterator[Round]:
    """A machine whose speed wanders, with bursts; servers whose starts differ among themselves by `instance`."""
    source, pace = random.Random(seed), 0.0

    def visit(factor: float, start_s: float) -> list[float]:
        return [factor * math.exp(source.gauss(0, instance)), start_s * math.exp(source.gauss(0, noise))]

    while True:
        sides = {"candidate": visit(slower, 3 * cold_start), "incumbent": visit(1.0, 3.0)}
        blocks: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(3):
            for name in source.sample(list(sides), 2):
                pace = 0.9 * pace + source.gauss(0, noise)
                burst = math.exp(source.expovariate(1.0)) if source.random() < 0.1 else 1.0
                times = math.exp(pace) * burst * sides[name][0]
                block = {"ttft_ms": 40 * times, "tpot_ms": 4 * times, "output_tokens_per_s": 1000 / times}
                blocks[name].append(block)
        yield Round(
            candidate=Visit(cold_start_s=sides["candidate"][1], blocks=tuple(blocks["candidate"])),
            incumbent=Visit(cold_start_s=sides["incumbent"][1], blocks=tuple(blocks["incumbent"])),
        )


def played(source: Iterator[Round], rule: Rule, most: int = MOST_ROUNDS) -> tuple[str, int, list[Row]]:
    """As a contest does it: a look after every round, the first decision counts."""
    seen: list[Round] = []
    for each in source:
        seen.append(each)
        rows = judge(seen, rule, None)
        decision = decide([row.figure for row in rows])
        if decision != "undecided" or len(seen) == most:
            return decision, len(seen), rows
    raise AssertionError


@pytest.mark.parametrize(("noise", "instance"), [(0.01, 0.0), (0.03, 0.01), (0.1, 0.02)])
def test_15_percent_slower_is_kept_out_and_an_identical_build_is_not(noise: float, instance: float) -> None:
    for seed in range(20):
        assert played(rounds(1.15, noise, seed, instance=instance), Rule())[0] == "keep", seed
        assert played(rounds(1.0, noise, seed, instance=instance), Rule())[0] != "keep", seed


def test_on_a_quiet_machine_an_identical_build_is_promoted_in_a_few_rounds() -> None:
    found = [played(rounds(1.0, 0.01, seed, instance=0.005), Rule())[:2] for seed in range(20)]
    assert {decision for decision, _ in found} == {"promote"}
    assert min(count for _, count in found) == 10 and max(count for _, count in found) <= 25


def test_the_luck_of_single_starts_is_no_evidence() -> None:
    """Starts that differ by 4 % among themselves: blocks without end on one pair of starts would prove a slowdown."""
    assert all(played(rounds(1.0, 0.005, seed, instance=0.04), Rule())[0] != "keep" for seed in range(10))


def test_at_the_very_limit_no_more_are_judged_wrongly_than_the_confidence_says() -> None:
    rule = Rule(max_slowdown=0.05)
    found = [played(rounds(1.05, 0.02, seed), rule, most=30)[0] for seed in range(40)]
    assert found.count("promote") + found.count("keep") <= 40 * 0.05


def test_a_slow_start_is_judged_by_its_margin_and_its_floor() -> None:
    slow = [next(source) for source in [rounds(1.0, 0.01, 0, cold_start=2.0)] for _ in range(12)]
    status = {floor: judge(slow, Rule(cold_start_floor_s=floor), None)[-1].figure.status for floor in (0.0, 5.0)}
    assert status == {0.0: "worse", 5.0: "good"}


def test_dollars_follow_from_throughput() -> None:
    source = rounds(1.15, 0.01, 1)
    rows = {row.figure.metric: row.figure for row in judge([next(source) for _ in range(12)], Rule(), 3.6)}
    price, throughput = rows["usd_per_million_tokens"], rows["output_tokens_per_s"]
    assert price.candidate == pytest.approx(3.6 * 1e6 / 3600 / throughput.candidate, rel=0.02)
    assert price.change is not None and throughput.change is not None
    assert 1 + price.change == pytest.approx(1 / (1 + throughput.change))
    assert price.status == throughput.status == "worse"
    assert price.limit == pytest.approx(0.05) and throughput.limit == pytest.approx(1 / 1.05 - 1)


def test_a_margin_of_its_own_goes_before_the_common_one() -> None:
    source = rounds(1.15, 0.005, 2)
    found = judge([next(source) for _ in range(12)], Rule(max_slowdown_ttft=0.3), None)
    statuses = {row.figure.metric: row.figure.status for row in found}
    assert statuses == {
        "ttft_ms": "good",
        "tpot_ms": "worse",
        "output_tokens_per_s": "worse",
        "cold_start_s": "good",
    }


def test_too_few_rounds_say_nothing_and_how_many_would() -> None:
    source = rounds(1.15, 0.005, 3)
    rows = judge([next(source) for _ in range(4)], Rule(), None)
    assert all(row.figure.status == "open" and row.figure.low is None for row in rows)
    assert min(row.rounds_to_tell or 0 for row in rows) == 10


def test_one_side_alone_is_shown_and_judged_by_nothing() -> None:
    figures = alone(next(rounds(1.0, 0.01, 4)).candidate, 2.0)
    assert {figure.status for figure in figures} == {"shown"}
    assert {figure.metric for figure in figures} >= {"ttft_ms", "cold_start_s", "usd_per_million_tokens"}


@pytest.mark.parametrize("wrong", [{"max_slowdown": 0.0}, {"max_slowdown": "5 %"}, {"block": 3}, {"confidence": 1.0}])
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate(wrong)
