"""From figures to pass, warn or fail, with every reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from builder.plan import ValidationPlan
from serving.validate.levels import Level
from serving.validate.load import Load
from serving.validate.results import RANK, CheckResult, Status, Verdict, worst
from serving.validate.saturation import GOOD_SHARE, interval

_Finding = tuple[Status, str]
_LATENCY_LIMITS = (("ttft_p95_ms", "ttft_ms", "TTFT"), ("tpot_p95_ms", "tpot_ms", "TPOT"))


def limits_of(plan: ValidationPlan) -> dict[str, float]:
    """The limits that the plan sets, by their keys in the spec."""
    keys = [key for key, _, _ in _LATENCY_LIMITS] + ["min_output_tokens_per_s"]
    return {key: getattr(plan, key) for key in keys if getattr(plan, key) is not None}


def judge_levels(levels: Sequence[Level], load: Load) -> tuple[Status, tuple[str, ...]]:
    """The worst finding and all their reasons. Latency limits hold at every level, the rate at the best one."""
    findings = [finding for level in levels for finding in _level_findings(level, load)]
    best = max((level.output_tokens_per_s for level in levels), default=0.0)
    least = load.plan.min_output_tokens_per_s
    if least is not None and best < least:
        findings.append(("fail", f"at most {best:.1f} output tokens/s, the limit is {least:g}"))
    if not levels:
        findings.append(("fail", "not one request was answered"))
    return worst([status for status, _ in findings]), tuple(reason for _, reason in findings)


def verdict(checks: Sequence[CheckResult]) -> Verdict:
    """The worst of `checks`, with all reasons, the gravest first; what was skipped does not count against it."""
    gravest_first = sorted(checks, key=lambda check: -RANK[check.status])
    reasons = tuple(f"{check.name}: {reason}" for check in gravest_first for reason in check.reasons)
    return Verdict(status=worst([check.status for check in checks]), reasons=reasons)


def _level_findings(level: Level, load: Load) -> Iterator[_Finding]:
    at = f"at {level.name}"
    for kind, count in level.errors.items():
        yield "fail", f"{at}, {count} of {level.requests} requests ended '{kind}': {level.messages[kind]}"
    if level.ended_early:
        yield "warn", f"{at}, {level.ended_early} answers ended before {load.plan.output_len} tokens; what came counts"
    for warning in level.warnings:
        yield "warn", f"{at}, {warning}"
    yield from _limit_findings(level, load.plan)
    if level.good_share is not None and level.good_share < GOOD_SHARE:
        _, high = interval(level.good_share, level.requests - level.unfinished)
        sure: Status = "fail" if high < GOOD_SHARE else "warn"
        yield sure, f"{at}, {level.good_share:.1%} of the requests are within the SLO, {GOOD_SHARE:.0%} must be"


def _limit_findings(level: Level, plan: ValidationPlan) -> Iterator[_Finding]:
    at = f"at {level.name}"
    for key, measure, name in _LATENCY_LIMITS:
        limit, latency = getattr(plan, key), getattr(level, measure)
        if limit is None:
            continue
        if latency is None:
            yield "fail", f"{at}, {name} could not be measured, the limit is {limit:g} ms"
        elif latency.p95 > limit:
            yield "fail", f"{at}, {name} p95 is {latency.p95:.1f} ms, the limit is {limit:g} ms"
