"""What the physics leaves over: a small additive correction of the logarithm, dense models only.

It depends on categories and on the lengths, never on bandwidth, rates, memory or batch, so that it cannot bend how
a prediction answers to them. Fitted by ridge regression on the physics' residuals; an unknown level adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from profiles.performance.columns import Array, Columns

Coefficients = Mapping[str, Mapping[str, Sequence[float]]]

LARGEST = 0.25  # of a logarithm
_TERMS = 5
_SHORTEST, _LONGEST = 128, 32768  # of the lengths that were published


@dataclass(frozen=True)
class Block:
    """One set of coefficients: a constant for each level, or one for each level and term of the lengths."""

    name: str
    groups: tuple[str, ...]
    spread: float  # prior standard deviation of a coefficient
    by_length: bool = False


BLOCKS = (
    Block("architecture", ("kind", "architecture", "math"), 0.05),
    Block("model", ("kind", "model"), 0.06),
    Block("model_version", ("kind", "architecture", "model", "version"), 0.06),
    Block("parallel", ("kind", "sku", "gpus"), 0.04),
    Block("lengths", ("kind", "stack"), 0.05, by_length=True),
    Block("lengths_version", ("kind", "version"), 0.04, by_length=True),
    Block("lengths_parallel", ("kind", "gpus"), 0.03, by_length=True),
)


def keys(block: Block, facts: Columns) -> list[str]:
    """The level of each question in a block."""
    return ["|".join(parts) for parts in zip(*(facts.levels[group] for group in block.groups), strict=True)]


def terms(block: Block, facts: Columns) -> Array:
    """What a level's coefficients are multiplied with: [n, 1], or [n, 5] in logarithms of the lengths."""
    if not block.by_length:
        return np.ones((len(facts), 1))
    isl, osl = (np.log(np.clip(length, _SHORTEST, _LONGEST) / 1000) for length in (facts.isl, facts.osl))
    return np.stack([isl / 1.5, osl / 1.2, isl * osl / 2, isl**2 / 3, osl**2 / 2], axis=1)


def correction(facts: Columns, coefficients: Coefficients) -> Array:
    """What to add to the logarithm of each question's throughput, or to subtract from that of its TPOT."""
    total = np.zeros(len(facts))
    for block in BLOCKS:
        known, nothing = coefficients.get(block.name, {}), [0.0] * (_TERMS if block.by_length else 1)
        chosen = np.array([known.get(key, nothing) for key in keys(block, facts)])
        total += (chosen * terms(block, facts)).sum(axis=1)
    return np.where(facts.moe_layers > 0, 0.0, np.clip(total, -LARGEST, LARGEST))


def solve(facts: Columns, residuals: Array, noise: Array) -> dict[str, dict[str, list[float]]]:
    """Ridge regression of what the physics misses, with weights that fade for outliers."""
    dense = facts.moe_layers == 0
    facts, residuals, noise = facts.take(np.flatnonzero(dense)), residuals[dense], noise[dense]
    design, owners = _design(facts)
    weights, solution = 1 / noise, np.zeros(design.shape[1])
    for _ in range(4):
        weighted = design * weights[:, None]
        solution = np.linalg.solve(weighted.T @ weighted + np.eye(design.shape[1]), weighted.T @ (residuals * weights))
        weights = (1 + ((residuals - design @ solution) / noise) ** 2) ** -0.25 / noise
    found: dict[str, dict[str, list[float]]] = {block.name: {} for block in BLOCKS}
    for (block, level), value in zip(owners, solution, strict=True):
        found[block.name].setdefault(level, []).append(round(float(value) * block.spread, 4))
    return found


def _design(facts: Columns) -> tuple[Array, list[tuple[Block, str]]]:
    parts: list[Any] = []
    owners: list[tuple[Block, str]] = []
    for block in BLOCKS:
        levels = keys(block, facts)
        factors = terms(block, facts) * block.spread
        for level in sorted(set(levels)):
            here = np.array([key == level for key in levels])
            parts.append(factors * here[:, None])
            owners += [(block, level)] * factors.shape[1]
    return np.concatenate(parts, axis=1), owners
