"""The edges of the decision, and the limits that it is made by."""

from __future__ import annotations

import math

import pytest

from builder.evaluate.bootstrap import Estimate
from builder.evaluate.decision import OVERALL, Decision, Judgement, decide, judge
from builder.evaluate.limits import check_limits, limits_for, nearest_width, parse_limits
from trtllm_kit.errors import SpecError, UsageError


def one(metric: str, limit: float, value: float, low: float, high: float, tokens: int = 10_000) -> Judgement:
    estimate = Estimate(value=value, low=low, high=high)
    (found,) = judge({OVERALL: (tokens, {metric: estimate})}, {metric: limit})
    return found


@pytest.mark.parametrize(
    ("low", "value", "high", "expected"),
    [
        (0.01, 0.02, 0.0299, "pass"),
        (0.01, 0.02, 0.03, "pass"),  # a limit that is met exactly is kept
        (0.01, 0.02, 0.0301, "undecided"),
        (0.0299, 0.04, 0.05, "undecided"),
        (0.03, 0.04, 0.05, "undecided"),  # its low end still keeps the limit
        (0.0301, 0.04, 0.05, "fail"),
        (-math.inf, 0.001, math.inf, "undecided"),
    ],
)
def test_the_whole_interval_decides(low: float, value: float, high: float, expected: Decision) -> None:
    assert one("kl_mean", 0.03, value, low, high).decision == expected


@pytest.mark.parametrize(
    ("low", "value", "high", "expected"),
    [
        (0.9, 0.95, 0.96, "pass"),
        (0.8999, 0.95, 0.96, "undecided"),
        (0.85, 0.88, 0.9, "undecided"),
        (0.85, 0.88, 0.8999, "fail"),
    ],
)
def test_agreement_has_a_lower_bound(low: float, value: float, high: float, expected: Decision) -> None:
    assert one("top1_agreement", 0.9, value, low, high).decision == expected


def test_four_times_the_text_halves_the_interval() -> None:
    """Half of the way from estimate to interval's end is room: the interval must become half as wide."""
    inside = one("kl_mean", 0.03, value=0.02, low=0.0, high=0.04, tokens=10_000)
    assert inside.more_tokens == pytest.approx(30_000, abs=100)
    beyond = one("kl_mean", 0.03, value=0.04, low=0.02, high=0.08, tokens=10_000)  # the low end is what matters
    assert beyond.more_tokens == pytest.approx(30_000, abs=100)
    agreement = one("top1_agreement", 0.9, value=0.92, low=0.88, high=0.95, tokens=10_000)
    assert agreement.more_tokens == pytest.approx(30_000, abs=100)


def test_no_amount_of_text_is_promised_for_a_value_at_its_limit() -> None:
    assert one("kl_mean", 0.03, value=0.03, low=0.02, high=0.04).more_tokens is None
    assert one("kl_mean", 0.03, value=0.0301, low=0.02, high=0.04).more_tokens is None
    assert one("kl_mean", 0.03, value=0.02, low=-math.inf, high=math.inf).more_tokens is None


def judged(decision: Decision, name: str = OVERALL) -> Judgement:
    estimate = Estimate(value=0.0, low=0.0, high=0.0)
    return Judgement(metric="kl_mean", slice=name, limit=0.1, estimate=estimate, decision=decision)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([judged("pass"), judged("pass", "code")], "pass"),
        ([judged("pass"), judged("undecided", "code")], "pass"),  # a slice need not prove that it is well
        ([judged("pass"), judged("fail", "code")], "fail"),  # but may not prove that it is ill
        ([judged("undecided"), judged("pass", "code")], "undecided"),
        ([judged("undecided"), judged("fail", "code")], "fail"),
        ([judged("fail"), judged("pass", "code")], "fail"),
    ],
)
def test_all_must_pass_and_one_may_fail(rows: list[Judgement], expected: Decision) -> None:
    assert decide(rows, short_of=[]) == expected
    assert decide(rows, short_of=["tokens"]) == "undecided"


def test_points_of_perplexity_are_meant_for_usual_perplexities() -> None:
    """At the border both say the same: 10 + 0.5 is 1.05 times 10."""
    assert limits_for(8, 6.0, {})["perplexity_increase"] == 0.5
    assert limits_for(4, 10.0, {})["perplexity_increase"] == 1.2
    above = limits_for(8, 10.1, {})
    assert above["perplexity_ratio"] == 1.05
    assert "perplexity_increase" not in above
    assert limits_for(8, 40.0, {"perplexity_increase": 0.5})["perplexity_increase"] == 0.5
    assert limits_for(8, 6.0, {"kl_p99": 1.0})["kl_p99"] == 1.0
    assert "kl_p99" not in limits_for(8, 6.0, {})


@pytest.mark.parametrize(("bits", "width"), [(16, 16), (12, 16), (8, 8), (7, 8), (6, 8), (5, 4), (4, 4), (3.2, 4)])
def test_mixed_widths_are_judged_by_the_nearest_row(bits: float, width: int) -> None:
    assert nearest_width(bits) == width


def test_limits_are_read_from_the_command_line() -> None:
    assert parse_limits(["kl_mean=0.05,top1_agreement=0.9", "kl_p99=1"]) == {
        "kl_mean": 0.05,
        "top1_agreement": 0.9,
        "kl_p99": 1.0,
    }
    with pytest.raises(UsageError, match="no value"):
        parse_limits(["kl_mean"])
    with pytest.raises(UsageError, match="no number"):
        parse_limits(["kl_mean=much"])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"kl_men": 0.1}, "kl_mean"),
        ({"accuracy": 0.1}, "no limit for 'accuracy'"),
        ({"top1_agreement": 95.0}, "out of range"),
        ({"kl_mean": 0.0}, "out of range"),
        ({"kl_mean": math.inf}, "out of range"),
        ({"kl_mean": math.nan}, "out of range"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        check_limits(limits)
    assert message in str(refused.value)
