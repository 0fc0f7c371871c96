"""Fit the performance model's constants: `python -m profiles.fit --measured trtllm_measured_latency.csv`.

Maximum a posteriori: squared residuals of logarithms, softened for outliers, with the priors of
`profiles.performance.constants`. Then the same again with rows left out, for the intervals. Writes
`profiles/data/fitted_constants.json`, the same bytes for the same rows, and prints the errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from profiles.performance import bands
from profiles.performance.columns import Array, Columns, Question, columns, size_of
from profiles.performance.constants import FITTED, GROUPS, NAMES, Layout
from profiles.performance.correction import correction, solve
from profiles.performance.operation import steady, throughput, ttft_s
from profiles.performance.rows import Measured, read
from trtllm_kit.files import pretty_json, write_text_atomic

PUBLISHED = Path(__file__).parent / "data" / "published_throughput.csv"
_NOISE = {"0.10": 0.12, "0.11": 0.08}  # of a logarithm, by version: the first in-flight batching pages are uneven
_NOISE_OTHERWISE, _NOISE_MOE_SERVED, _NOISE_TTFT = 0.06, 0.25, 0.35
_LARGEST_GROUP = 8  # GPUs; wider rows are several nodes, which the model does not describe
_ITERATIONS, _ATTEMPTS, _SETTLED, _DIFFERENCE, _DAMPING = 400, 8, 1e-7, 1e-4, 1e-3


@dataclass(frozen=True)
class Rows:
    """Questions with their answers, as logarithms [n]: throughput or TPOT in `answer`, TTFT where there is one."""

    facts: Columns
    answer: Array
    ttft: Array
    cell: Sequence[str]
    name: Sequence[str]  # of the model, as it was printed

    @cached_property
    def served(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows are latencies of a closed loop."""
        return self.facts.serving > 0

    @cached_property
    def noise(self) -> Array:
        """How far an answer may be off for reasons that no model knows."""
        noise = np.array([_NOISE.get(version, _NOISE_OTHERWISE) for version in self.facts.levels["version"]])
        moe_served = self.served & (self.facts.moe_layers > 0)
        return np.where(moe_served, _NOISE_MOE_SERVED, np.where(self.served, _NOISE_OTHERWISE, noise))

    def take(self, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Rows:
        """The rows where `chosen` is true."""
        index = np.flatnonzero(chosen)
        cells, names = ([words[i] for i in index] for words in (self.cell, self.name))
        return Rows(self.facts.take(index), self.answer[index], self.ttft[index], cells, names)


@dataclass(frozen=True)
class Model:
    """What a fit found."""

    layout: Layout
    vector: Array
    coefficients: dict[str, dict[str, list[float]]]

    def misses(self, rows: Rows) -> tuple[Array, Array]:
        """(log of predicted over true answer, the same for TTFT; NaN where the row has none)."""
        predicted, ttft = _predicted(rows.facts, self.layout.reader(rows.facts)(self.vector))
        sign = np.where(rows.served, -1, 1)
        moved = sign * correction(rows.facts, self.coefficients)
        return predicted + moved - rows.answer, ttft - rows.ttft


def load(measured_latency: Path, published: Path = PUBLISHED) -> Rows:
    """Both kinds of rows, less those of settings that the model does not describe."""
    rows = [row for row in read(published) if row.question and row.row.get("kind") == "max_throughput"]
    rows += [row for row in read(measured_latency) if row.question and row.tpot_ms and _is_one_node(row.question)]
    asked = [row.question for row in rows if row.question]
    answers = [np.log(row.output_tokens_per_s or (row.tpot_ms or np.nan) / 1e3) for row in rows]
    ttft = [np.log(row.ttft_ms / 1e3) if row.ttft_ms else np.nan for row in rows]
    cells, names = [cell_of(row) for row in rows], [_name(row) for row in rows]
    return Rows(columns(asked), np.array(answers), np.array(ttft), cells, names)


def cell_of(measured: Measured) -> str:
    """What is left out together: a model on a SKU with a TP size; models of the same size count as one."""
    assert measured.question is not None
    setup = measured.question.setup
    return f"{setup.sku.id} {size_of(setup.shape)} {setup.tp_size}"


def _name(measured: Measured) -> str:
    return (measured.row.get("model") or measured.row["model_path"]).lower()


def fit(rows: Rows, start: Model | None = None) -> Model:
    """The constants that explain `rows` best, given the priors. What `start` knew of levels without rows is dropped."""
    layout = start.layout if start else Layout({group: sorted(set(rows.facts.levels[group])) for group in GROUPS})
    problem = _Problem(rows, layout)
    found = problem.solve(problem.forget(start.vector) if start else layout.means)
    vector = layout.of_json(layout.to_json(found))
    missed, _ = Model(layout, vector, {}).misses(rows)
    return Model(layout, vector, solve(rows.facts, np.where(rows.served, 1, -1) * missed, rows.noise))


class _Problem:
    """Least squares with priors, by Gauss-Newton steps under Levenberg's damping.

    A deviation moves the rows of its level as the base value would, so that one numerical derivative for each
    parameter gives those of all its levels.
    """

    def __init__(self, rows: Rows, layout: Layout) -> None:
        self._rows, self._layout = rows, layout
        self._reader = layout.reader(rows.facts)
        self._owner = np.array([NAMES.index(name) for name, _, _ in layout.places])
        self._belongs = np.stack(
            [
                np.array([level == key for key in rows.facts.levels[group]]) if group else np.ones(len(rows.answer))
                for _, group, level in layout.places
            ],
            axis=1,
        ).astype(float)
        self._waits = np.flatnonzero(np.isfinite(rows.ttft))
        self._noise = np.concatenate([rows.noise, np.full(len(self._waits), _NOISE_TTFT)])

    def forget(self, vector: Array) -> Array:
        """`vector` with the priors' means for all levels that have no row here."""
        return np.where(self._belongs.any(axis=0), vector, self._layout.means)

    def solve(self, vector: Array) -> Array:
        """The vector of least cost, from a first guess."""
        damping, (cost, misses) = _DAMPING, self._cost(vector)
        precision = self._layout.spreads**-2
        for _ in range(_ITERATIONS):
            before, slopes = cost, self._slopes(vector)
            curvature = (slopes * _weights(misses)[:, None]).T @ slopes + np.diag(precision)
            for _ in range(_ATTEMPTS):  # slopes cost most of the time and change slowly: steps share them
                gradient = slopes.T @ (_weights(misses) * misses) + precision * (vector - self._layout.means)
                trial = vector - np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient)
                trial_cost, trial_misses = self._cost(trial)
                if trial_cost >= cost:
                    damping *= 5
                    continue
                gain = cost - trial_cost
                vector, cost, misses, damping = trial, trial_cost, trial_misses, max(damping / 5, _DAMPING)
                if gain < 0.1 * _SETTLED * cost:
                    break
            if before - cost < _SETTLED * before:
                break
        return vector

    def _cost(self, vector: Array) -> tuple[float, Array]:
        """(softened squares and priors, misses in units of noise): squares grow linearly far out (pseudo-Huber)."""
        misses = self._misses(self._reader(vector))
        prior = ((vector - self._layout.means) / self._layout.spreads) ** 2
        return float(2 * np.sum(np.sqrt(1 + misses**2) - 1) + np.sum(prior)), misses

    def _misses(self, constants: Mapping[str, Array]) -> Array:
        answer, ttft = _predicted(self._rows.facts, constants)
        missed = np.concatenate([answer - self._rows.answer, (ttft - self._rows.ttft)[self._waits]])
        return np.asarray(missed / self._noise)

    def _slopes(self, vector: Array) -> Array:
        here = self._misses(self._reader(vector))
        base = []
        for name in NAMES:
            moved = vector.copy()
            moved[self._layout.places[name, "", ""]] += _DIFFERENCE
            base.append((self._misses(self._reader(moved)) - here) / _DIFFERENCE)
        slopes = np.stack(base, axis=1)[:, self._owner]
        return np.asarray(slopes * np.concatenate([self._belongs, self._belongs[self._waits]]))


def _weights(misses: Array) -> Array:
    """How much a miss still counts: less the farther out (pseudo-Huber)."""
    return np.asarray((1 + misses**2) ** -0.5)


def held_out(rows: Rows, model: Model, keys: Sequence[str]) -> tuple[Array, Array]:
    """Misses (as `Model.misses`) of each row by a fit that has not seen any row with the same key."""
    misses, ttft = np.full(len(keys), np.nan), np.full(len(keys), np.nan)
    for key in sorted(set(keys)):
        chosen = np.array([other == key for other in keys])
        misses[chosen], ttft[chosen] = fit(rows.take(~chosen), model).misses(rows.take(chosen))
    return misses, ttft


def _predicted(facts: Columns, constants: Mapping[str, Array]) -> tuple[Array, Array]:
    """(log of throughput or TPOT, log of TTFT in a closed loop)."""
    state = steady(facts, constants)
    saturated = throughput(facts, constants, state)
    answer = np.where(facts.serving > 0, np.log(state.token_s), np.log(saturated))
    return answer, np.where(facts.serving > 0, np.log(ttft_s(facts, constants, state, state.token_s)), np.nan)


def _is_one_node(question: Question) -> bool:
    return question.setup.tp_size <= _LARGEST_GROUP


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, print the errors, and write the constants."""
    parser = argparse.ArgumentParser(prog="python -m profiles.fit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--measured", type=Path, required=True, metavar="CSV", help="measured TTFT and TPOT rows")
    parser.add_argument("--output", type=Path, default=FITTED, metavar="JSON")
    options = parser.parse_args(arguments)
    rows = load(options.measured)
    model = fit(rows)
    print(bands.table("fitted rows", rows.facts, model.misses(rows)[0]))
    by_cell = held_out(rows, model, rows.cell)
    print(bands.table("cells (SKU, model, TP) left out", rows.facts, by_cell[0]))
    print(bands.ttft_held(rows.cell, by_cell[1]))
    by_sku = held_out(rows, model, rows.facts.levels["sku"])
    print(bands.table("SKUs left out", rows.facts, by_sku[0]))
    by_model = held_out(rows, model, rows.facts.levels["model"])
    print(bands.table("models left out", rows.facts, by_model[0]))
    written = {
        "constants": model.layout.to_json(model.vector),
        "correction": model.coefficients,
        "bands": bands.measure(rows.facts, {"cell": by_cell, "sku": by_sku, "model": by_model}),
        "seen": bands.seen(rows.facts),
    }
    write_text_atomic(options.output, pretty_json(written))


if __name__ == "__main__":
    main()
