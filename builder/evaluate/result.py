"""The outcome of an evaluation, for programs and for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.evaluate.bootstrap import Estimate
from builder.evaluate.decision import OVERALL, Decision, Judgement
from builder.evaluate.layer_errors import LayerError
from builder.evaluate.limits import LIMITED
from builder.evaluate.sensitivity import SensitivityRow
from trtllm_kit.errors import QualityError

_DIGITS = 6  # that are written: more are noise of the machine


@dataclass(frozen=True, kw_only=True)
class SliceQuality:
    """One slice, or all of them together."""

    documents: int
    tokens: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """What was lost. Without slices: nothing had to be measured, and `reasons` says why."""

    decision: Decision
    reasons: tuple[str, ...]
    about: Mapping[str, Any] = field(default_factory=dict)  # what was compared, and how
    limits: Mapping[str, float] = field(default_factory=dict)
    slices: Mapping[str, SliceQuality] = field(default_factory=dict)  # `overall` first
    judgements: tuple[Judgement, ...] = ()
    layers: tuple[LayerError, ...] = ()
    sensitivity: tuple[SensitivityRow, ...] = ()  # the costliest first

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same for the same inputs: no times, no paths."""
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "about": dict(self.about),
            "limits": {name: _rounded(value) for name, value in self.limits.items()},
            **{name: _slice(row) for name, row in self.slices.items() if name == OVERALL},
            "slices": {name: _slice(row) for name, row in self.slices.items() if name != OVERALL},
            "judgements": [_judgement(row) for row in self.judgements],
            "layers": [_layer(row) for row in self.layers],
            "sensitivity": [_row(row) for row in self.sensitivity],
        }

    def summary(self) -> list[str]:
        """A few lines for a terminal: the overall metrics, then the decision with its reasons."""
        lines = []
        if OVERALL in self.slices:
            overall = self.slices[OVERALL]
            lines.append(f"{overall.tokens} tokens of {overall.documents} held-out documents")
            lines += [f"  {LIMITED[name].what}: {_interval(overall.metrics[name])}" for name in LIMITED]
        return [*lines, f"quality: {self.decision}", *(f"  {reason}" for reason in self.reasons)]

    def raise_unless_passed(self) -> None:
        """QualityError, exit 6, for what failed and for what could not be decided."""
        if self.decision == "pass":
            return
        failed = self.decision == "fail"
        raise QualityError(
            ("the build lost more quality than its limits allow" if failed else "the quality gate could not decide")
            + "".join(f"\n  {reason}" for reason in self.reasons),
            expected="every limit kept, to the end of its confidence interval",
            fix="choose a precision with more bits, leave the costliest layers out (see the report's sensitivity), "
            "or change the limits"
            if failed
            else "evaluate on more text: --data with your own, or a larger --max-tokens",
        )


def _interval(found: Estimate) -> str:
    return f"{found.value:.4g}  [{found.low:.4g}, {found.high:.4g}]"


def _rounded(value: float) -> float | None:
    """JSON has no infinity: an end that is not known is null."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _estimate(found: Estimate) -> dict[str, float | None]:
    return {"value": _rounded(found.value), "low": _rounded(found.low), "high": _rounded(found.high)}


def _slice(row: SliceQuality) -> dict[str, Any]:
    metrics = {name: _estimate(found) for name, found in row.metrics.items()}
    return {"documents": row.documents, "tokens": row.tokens, "metrics": metrics}


def _judgement(row: Judgement) -> dict[str, Any]:
    return {
        "metric": row.metric,
        "slice": row.slice,
        "decision": row.decision,
        "limit": _rounded(row.limit),
        "more_tokens": row.more_tokens,
        **_estimate(row.estimate),
    }


def _layer(row: LayerError) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "stream_error": _rounded(row.stream_error),
        "own_error": _rounded(row.own_error),
        "groups": [
            {
                "modules": list(group.modules),
                "weight_error": _rounded(group.weight_error),
                "output_error": _rounded(group.output_error),
            }
            for group in row.groups
        ],
    }


def _row(row: SensitivityRow) -> dict[str, Any]:
    return {
        "modules": list(row.modules),
        "output_error": _rounded(row.output_error),
        "kl": None if row.kl is None else _rounded(row.kl),
        "extra_bytes": row.extra_bytes,
    }
