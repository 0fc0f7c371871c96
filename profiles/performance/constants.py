"""The model's constants: what each means, what is believed before any data, and the fitted values.

A constant is a base value times one deviation for each level of its groups (architecture, SKU, ...). All are fitted
in logarithms with a normal prior, so that a level with few rows stays near its group, and one without rows, such as
a new SKU, takes the group's value: deviation 0.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from profiles.performance.columns import Array, Columns

FITTED = Path(__file__).parents[1] / "data" / "fitted_constants.json"


@dataclass(frozen=True)
class Parameter:
    """`prior` in the parameter's unit; `spread` and `groups` are standard deviations of its logarithm.

    A `share` of a peak is kept below 1.
    """

    name: str
    prior: float
    spread: float
    groups: Mapping[str, float] = field(default_factory=dict)
    share: bool = False


def at_most_one(share: Array) -> Array:
    """A share of a peak that stays below it, without a corner that a fit could get stuck in."""
    return np.asarray(share / (1 + share**8) ** 0.125)


PARAMETERS = (
    # shares of the GPU's peaks
    Parameter("gemm_efficiency", 0.75, 0.3, {"architecture": 0.15, "math": 0.12, "sku": 0.07, "version": 0.025}),
    Parameter("gemm_half_tokens", 60, 0.7, {"architecture": 0.3, "version": 0.15}),  # at which a GEMM reaches half
    Parameter("power_exponent", 0.5, 0.5, share=True),  # how efficiency falls with power for each TFLOP/s
    Parameter("weight_read_efficiency", 0.80, 0.2, {"architecture": 0.1, "sku": 0.05}, share=True),
    Parameter("kv_read_efficiency", 0.75, 0.3, {"architecture": 0.15, "sku": 0.07, "stack": 0.1}, share=True),
    Parameter("kv_elements_per_flop", 0.006, 0.5, {"architecture": 0.2, "heads": 0.3}),
    Parameter("prefill_attention_efficiency", 0.45, 0.4, {"architecture": 0.2, "version": 0.1}, share=True),
    # vectors of 16 bits read or written outside of GEMMs, by token and layer, and for each expert of a token
    Parameter("activation_vectors", 20, 0.6, {"architecture": 0.3}),
    Parameter("expert_vectors", 3, 0.6, {"architecture": 0.2}),
    # communication
    Parameter(
        "allreduce_latency_s",
        12e-6,
        0.4,
        {"bus": 0.4, "ring": 0.3, "topology": 0.2, "group": 0.2, "client": 0.7, "version": 0.2},
    ),
    Parameter("link_efficiency", 0.6, 0.4, {"bus": 0.4, "ring": 0.4, "topology": 0.2, "group": 0.2}),
    # launching and scheduling
    Parameter("layer_overhead_s", 12e-6, 0.6, {"architecture": 0.3, "stack": 0.4, "version": 0.1}),
    Parameter("step_overhead_s", 2e-3, 0.8, {"client": 0.6, "architecture": 0.2, "version": 0.15}),
    Parameter("sequence_overhead_s", 4e-6, 0.8, {"client": 0.5, "architecture": 0.2, "version": 0.15}),
    # memory that is neither weights nor KV cache
    Parameter("reserve_bytes", 1.5e9, 0.3, {"stack": 0.3, "version": 0.15}),
    Parameter("reserve_activations", 2, 0.7, {"stack": 0.5}),  # copies of a step's activations
    Parameter("reserve_logit_bytes", 6, 0.25, {"stack": 0.2, "version": 0.1}),  # by sequence and vocabulary entry
    Parameter("reserve_attention_dp_bytes", 6e9, 0.4),
    Parameter("kv_fraction", 0.92, 0.03, {"version": 0.05}),
    # experts
    Parameter("expert_imbalance", 0.4, 0.5),
    Parameter("expert_slowdown", 1.0, 0.1, {"architecture": 0.15, "stack": 0.4}),  # a large expert is a dense GEMM
    Parameter("expert_half_tokens", 60, 0.7),  # tokens of an expert at which its GEMMs reach half of that
    Parameter("expert_half_width", 300, 0.8),  # inner width of an expert at which they do
    # runs and versions
    Parameter("tail_share", 1.0, 0.5),  # of a last, partly filled wave's fixed cost
    Parameter("speed", 1.0, 0.02, {"version": 0.08}),
    # time to the first token
    Parameter("ttft_overhead_s", 0.08, 0.5, {"architecture": 0.3}),
    Parameter("ttft_crowding", 0.06, 0.7),  # prefills of other users that one waits for, as a share of them
)

NAMES = tuple(parameter.name for parameter in PARAMETERS)
GROUPS = tuple(dict.fromkeys(group for parameter in PARAMETERS for group in parameter.groups))


class Layout:
    """Where each (parameter, group, level) stands in the vector that is fitted; one last place is always 0."""

    def __init__(self, levels: Mapping[str, Sequence[str]]) -> None:
        self.levels = levels
        self.places: dict[tuple[str, str, str], int] = {}
        means: list[float] = []
        spreads: list[float] = []
        for parameter in PARAMETERS:
            self.places[parameter.name, "", ""] = len(means)
            means.append(float(np.log(parameter.prior)))
            spreads.append(parameter.spread)
            for group, spread in parameter.groups.items():
                for level in levels[group]:
                    self.places[parameter.name, group, level] = len(means)
                    means.append(0.0)
                    spreads.append(spread)
        self.means, self.spreads = np.array(means), np.array(spreads)

    def reader(self, facts: Columns) -> Reader:
        """What turns a vector into the constants of these questions."""
        nowhere = len(self.means)
        places = {
            parameter.name: [np.full(len(facts), self.places[parameter.name, "", ""])]
            + [
                np.array([self.places.get((parameter.name, group, level), nowhere) for level in facts.levels[group]])
                for group in parameter.groups
            ]
            for parameter in PARAMETERS
        }
        return Reader(places)

    def to_json(self, vector: Array) -> dict[str, Any]:
        """Base values in their units, deviations as logarithms; what `of_json` reads."""
        out: dict[str, Any] = {}
        for (name, group, level), place in self.places.items():
            if not group:
                out[name] = {"value": float(f"{np.exp(vector[place]):.5g}")}
            elif deviation := round(float(vector[place]), 4):
                out[name].setdefault(group, {})[level] = deviation
        return out

    def of_json(self, written: Mapping[str, Any]) -> Array:
        """Inverse of `to_json`, up to its rounding."""
        vector = self.means.copy()
        for (name, group, level), place in self.places.items():
            entry = written[name]
            vector[place] = entry.get(group, {}).get(level, 0.0) if group else np.log(entry["value"])
        return vector


class Reader:
    """Constants of n questions from a fitted vector."""

    def __init__(self, places: Mapping[str, Sequence[np.ndarray[Any, Any]]]) -> None:
        self._places = places

    def __call__(self, vector: Array) -> Mapping[str, Array]:
        """Each parameter as an array [n] in its unit."""
        padded = np.append(vector, 0.0)
        found = {}
        for parameter, places in zip(PARAMETERS, self._places.values(), strict=True):
            value = np.exp(np.sum([padded[place] for place in places], axis=0))
            found[parameter.name] = at_most_one(value) if parameter.share else value
        return found


def constants_of(facts: Columns) -> Mapping[str, Array]:
    """The fitted constants of these questions."""
    rows = zip(*(facts.levels[group] for group in GROUPS), strict=True)
    table = np.array([_constants(levels) for levels in rows]).T
    return dict(zip(NAMES, table, strict=True))


@functools.lru_cache(maxsize=4096)
def _constants(levels: tuple[str, ...]) -> tuple[float, ...]:
    """All parameters, in order, for one level of each of GROUPS."""
    chosen = dict(zip(GROUPS, levels, strict=True))
    values = []
    for parameter in PARAMETERS:
        entry = written()["constants"][parameter.name]
        deviations = (entry.get(group, {}).get(chosen[group], 0.0) for group in parameter.groups)
        value = entry["value"] * math.exp(sum(deviations))
        values.append(float(at_most_one(np.array(value))) if parameter.share else value)
    return tuple(values)


@functools.cache
def written() -> Mapping[str, Any]:
    """What `python -m profiles.fit` wrote: constants, correction, bands, and which rows it saw."""
    found: Mapping[str, Any] = json.loads(FITTED.read_text(encoding="utf-8"))
    return found
