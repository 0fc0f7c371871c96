"""Rows with their predictions and errors, and what the errors come to by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, quantiles
from typing import Any

from profiles.performance.model import Answer, predict
from profiles.performance.rows import Measured
from profiles.performance.setup import Prediction

_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Group:
    """Absolute errors of one group of rows in percent; `held` is the share of true figures inside the interval."""

    name: str
    rows: int
    median_percent: float
    mean_percent: float
    p90_percent: float
    held: float


@dataclass(frozen=True)
class _Judged:
    group: str
    error_percent: float
    inside: bool


def answered(measured: Sequence[Measured]) -> tuple[list[dict[str, Any]], list[Group]]:
    """(each row with what is predicted for it and how far off that is, the errors by group)."""
    asked = [row for row in measured if row.question is not None]
    answers = iter(predict([row.question for row in asked if row.question is not None]) if asked else ())
    rows, judged = [], []
    for row in measured:
        if row.question is None:
            rows.append({**_given(row.row), "predicted": "", "low": "", "high": "", "basis": row.why_not})
            continue
        answer = next(answers)
        columns, found = _latency(row, answer) if row.is_latency else _throughput(row, answer)
        rows.append({**_given(row.row), **columns})
        judged += found
    return rows, _summary(judged)


def _given(row: Mapping[str, str]) -> dict[str, Any]:
    """The row as it came; what it calls `basis` (total or per_gpu) makes room for the prediction's."""
    return {"given_basis" if name == "basis" else name: value for name, value in row.items()}


def _throughput(row: Measured, answer: Answer) -> tuple[dict[str, Any], list[_Judged]]:
    found = answer.saturated_tokens_per_s
    columns = {"predicted": _short(found.value), "low": _short(found.low), "high": _short(found.high)}
    judged = _judge(row, "throughput", found, row.output_tokens_per_s)
    error = {"error_percent": round(judged[0].error_percent, 2)} if judged else {}
    return {**columns, "basis": found.basis, **error}, judged


def _latency(row: Measured, answer: Answer) -> tuple[dict[str, Any], list[_Judged]]:
    columns: dict[str, Any] = {}
    judged: list[_Judged] = []
    for name, found, truth in (
        ("ttft", answer.operating.ttft_ms, row.ttft_ms),
        ("tpot", answer.operating.tpot_ms, row.tpot_ms),
    ):
        columns |= {f"predicted_{name}_ms": _short(found.value), f"low_{name}_ms": _short(found.low)}
        columns |= {f"high_{name}_ms": _short(found.high)}
        one = _judge(row, name.upper(), found, truth)
        if one:
            columns[f"{name}_error_percent"] = round(one[0].error_percent, 2)
        judged += one
    return {**columns, "basis": answer.operating.tpot_ms.basis}, judged


def _judge(row: Measured, figure: str, found: Prediction, truth: float | None) -> list[_Judged]:
    if truth is None or row.question is None:
        return []
    setup = row.question.setup
    family = "MoE" if setup.shape.is_moe else f"dense {setup.precision}"
    error = 100 * (found.value / truth - 1)
    return [_Judged(f"{figure} {setup.sku.id} {family}", error, found.low <= truth <= found.high)]


def _summary(judged: Sequence[_Judged]) -> list[Group]:
    groups: dict[str, list[_Judged]] = {}
    for one in judged:
        groups.setdefault(one.group, []).append(one)
        groups.setdefault(f"all {one.group.split(' ')[0]}", []).append(one)
    return [
        Group(
            name=name,
            rows=len(members),
            median_percent=round(median(abs(one.error_percent) for one in members), 1),
            mean_percent=round(mean(abs(one.error_percent) for one in members), 1),
            p90_percent=round(_p90([abs(one.error_percent) for one in members]), 1),
            held=round(mean(one.inside for one in members), 3),
        )
        for name, members in sorted(groups.items())
    ]


def _p90(errors: Sequence[float]) -> float:
    return quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0]


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
