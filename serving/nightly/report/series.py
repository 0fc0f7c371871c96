"""One cell's figure over the nights: of the build in service, and of the candidates that were held against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from serving.nightly.record import CellResult, Figure
from serving.nightly.report.nights import Night

Role = Literal["in service", "candidate"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one build measured in one night."""

    night: str
    digest: str  # of the artifact; empty where the record does not say
    value: float


def series(nights: Iterable[Night], identifier: str, metric: str, role: Role) -> tuple[Point, ...]:
    """The figure in each night that measured it. The candidate that is promoted is in service from that night on."""
    return tuple(_points(nights, identifier, metric, role))


def measured(nights: Iterable[Night], identifier: str) -> dict[str, str]:
    """Unit of every figure that any of the nights has of the cell, by metric."""
    return {
        figure.metric: figure.unit
        for night in nights
        if (result := night.results.get(identifier)) is not None
        for figure in result.figures
    }


def _points(nights: Iterable[Night], identifier: str, metric: str, role: Role) -> Iterator[Point]:
    for night in nights:
        result = night.results.get(identifier)
        figure = next((one for one in result.figures if one.metric == metric), None) if result else None
        if result is None or figure is None:
            continue
        value, digest = _of(role, result, figure)
        if value is not None:
            yield Point(night=night.name, digest=digest or "", value=value)


def _of(role: Role, result: CellResult, figure: Figure) -> tuple[float | None, str | None]:
    if role == "candidate" or result.decision == "promote":
        return figure.candidate, result.artifact
    return figure.incumbent, result.current
