"""From figures to pass, warn or fail, with every reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from builder.plan import ValidationPlan
from serving.validate.results import RANK, CheckResult, Status, Verdict

if TYPE_CHECKING:
    from serving.validate.throughput import Level

_Finding = tuple[Status, str]
_LATENCY_LIMITS = (("ttft_p95_ms", "ttft_ms", "TTFT"), ("tpot_p95_ms", "tpot_ms", "TPOT"))


def limits_of(plan: ValidationPlan) -> dict[str, float]:
    """The limits that the plan sets, by their keys in the spec."""
    keys = [key for key, _, _ in _LATENCY_LIMITS] + ["min_output_tokens_per_s"]
    return {key: getattr(plan, key) for key in keys if getattr(plan, key) is not None}


def judge_levels(levels: Sequence[Level], plan: ValidationPlan) -> tuple[Status, tuple[str, ...]]:
    """The worst finding and all their reasons. Latency limits hold at every level, the rate at the best one."""
    findings = [finding for level in levels for finding in _level_findings(level, plan)]
    best = max((level.output_tokens_per_s for level in levels), default=0.0)
    least = plan.min_output_tokens_per_s
    if least is not None and best < least:
        findings.append(("fail", f"at most {best:.1f} output tokens/s, the limit is {least:g}"))
    return _worst([status for status, _ in findings]), tuple(reason for _, reason in findings)


def verdict(checks: Sequence[CheckResult]) -> Verdict:
    """The worst of `checks`; a check that was skipped is named and does not count against it."""
    reasons = tuple(f"{check.name}: {reason}" for check in checks for reason in check.reasons)
    return Verdict(status=_worst([check.status for check in checks]), reasons=reasons)


def _level_findings(level: Level, plan: ValidationPlan) -> Iterator[_Finding]:
    at = f"at concurrency {level.concurrency}"
    for kind, count in level.errors.items():
        example = next(iter(level.messages), "")
        yield "fail", f"{at}, {count} of {level.requests} requests ended '{kind}': {example}"
    for line in level.impossible:
        yield "fail", f"{at}, {line}: these figures cannot be true"
    if level.ended_early:
        yield "warn", f"{at}, {level.ended_early} answers ended before {plan.output_len} tokens; what came is counted"
    if level.counted_by == "responses" and level.completed:
        yield "warn", f"{at}, the server gives no token counts; one response is counted as one token"
    for key, measure, name in _LATENCY_LIMITS:
        limit, latency = getattr(plan, key), getattr(level, measure)
        if limit is None:
            continue
        if latency is None:
            yield "fail", f"{at}, {name} could not be measured, the limit is {limit:g} ms"
        elif latency.p95 > limit:
            yield "fail", f"{at}, {name} p95 is {latency.p95:.1f} ms, the limit is {limit:g} ms"


def _worst(statuses: Sequence[Status]) -> Status:
    return max((status for status in statuses), key=RANK.__getitem__, default="pass")
