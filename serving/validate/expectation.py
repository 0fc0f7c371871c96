"""Is it as fast as this SKU should make it: against the profile's prediction, and against a stored baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from serving.validate.compare import Comparison
from serving.validate.levels import Level
from serving.validate.results import CheckResult, Status, worst

if TYPE_CHECKING:
    from profiles.performance import Setup

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Output tokens/s of one level as measured and as predicted, with the interval of the prediction."""

    level: str
    measured: float
    predicted: float
    low: float
    high: float
    basis: str
    status: Status
    words: str


def expectation(
    levels: Sequence[Level], *, setup: Setup | None, why_no_setup: str, baseline: Comparison | None
) -> CheckResult:
    """Fails below the prediction's interval or where the baseline was faster; skipped when there is neither."""
    rows = [found for level in levels if setup is not None and (found := _against(setup, level)) is not None]
    statuses: list[Status] = [row.status for row in rows]
    reasons = [row.words for row in rows if row.status != "pass"]
    if setup is None:
        reasons.append(f"no prediction: {why_no_setup}")
    if baseline is None:
        reasons.append("no baseline of this SKU, model, precision and load: --save-baseline keeps this result as one")
    else:
        statuses.append("fail" if baseline.worse else "pass")
        reasons += _slower(baseline)
    data: dict[str, Any] = {
        "predictions": [asdict(row) for row in rows],
        "baseline": baseline.to_json() if baseline is not None else None,
    }
    status: Status = worst(statuses) if statuses else "skipped"
    return CheckResult(name="expectation", status=status, reasons=tuple(reasons), data=data)


def _slower(baseline: Comparison) -> list[str]:
    """The largest changes for the worse, and how many more there are."""
    worse = sorted((row for row in baseline.rows if row.status == "worse"), key=lambda row: -abs(row.change))
    lines = [f"against the baseline, {row.words}" for row in worse[:_SHOWN]]
    return lines + ([f"and {len(worse) - _SHOWN} more figures are worse"] if len(worse) > _SHOWN else [])


def _against(setup: Setup, level: Level) -> Expected | None:
    """None for a level whose lengths or load are not known."""
    if not level.isl or not level.osl or level.concurrency < 1 or not level.completed:
        return None
    from profiles import performance

    found = performance.at_concurrency(setup, level.isl, level.osl, round(level.concurrency)).output_tokens_per_s
    status, how = _status(level, found.low, found.high, calibrated=found.calibrated)
    return Expected(
        level=level.name,
        measured=level.output_tokens_per_s,
        predicted=found.value,
        low=found.low,
        high=found.high,
        basis=found.basis,
        status=status,
        words=f"at {level.name}, {level.output_tokens_per_s:,.1f} output tokens/s are {how} the prediction of"
        f" {found.value:,.1f} ({found.low:,.1f} to {found.high:,.1f}; {found.basis})",
    )


def _status(level: Level, low: float, high: float, *, calibrated: bool) -> tuple[Status, str]:
    """An open loop is only as fast as it is asked to be, so it cannot be too slow; what is offered is not there."""
    rate, half = level.output_tokens_per_s, level.output_tokens_per_s_ci or 0.0
    if rate > high:
        return "warn", "above"
    if rate >= low or level.rate is not None:
        return "pass", "within"
    if rate + half >= low or not calibrated:
        return "warn", "below, though not beyond doubt,"
    return "fail", "below"
