"""What a cell will take: minutes by what past nights took, bytes by the weights, dollars by the SKU's price.

Nothing is invented: where no night has run the stages that are to run, the minutes are unknown, and so are the dollars.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.depot.depot import Depot
from builder.plan import BuildPlan
from builder.resolve.quantization import weight_bits
from profiles import prices, weights
from profiles.model_shape import ModelShape
from serving.nightly.record import CellResult
from serving.nightly.report.nights import night_names, read_nights
from trtllm_kit.identifier import BuildIdentifier

_NIGHTS = 7  # that are looked back on
_ALIKE = 0.2  # relative difference in size up to which another cell's times are taken for this one
_PROCESS_BYTES = 1_100_000_000  # beside the weights; the example's build in int8_wo was measured at 1.04 GB
_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one cell; `basis` says whose times were taken."""

    minutes: float | None
    basis: str
    artifact_bytes: int
    memory_bytes: int
    usd: float | None  # None: unknown time, no known price, or a CPU


class Estimator:
    """Reads the last nights once."""

    def __init__(self, depot: Depot) -> None:
        nights = read_nights(depot, night_names(depot)[-_NIGHTS:])
        self._past = [found for night in reversed(nights) for found in night.results.values() if found and found.stages]
        own = os.environ.get("TRTLLM_KIT_PRICES")
        self._prices = prices.load(Path(own) if own else None)

    def of(self, plan: BuildPlan, stages: Sequence[str]) -> Estimate:
        """For running `stages` of a plan."""
        size = artifact_bytes(plan)
        seconds, basis = self._seconds(plan.identifier, size, stages)
        price = None if plan.sku.id == "cpu" else self._prices.cheapest(plan.sku)
        usd = None
        if price is not None and seconds is not None:
            usd = seconds / 3600 * price.usd_per_gpu_hour * plan.world_size
        return Estimate(
            minutes=None if seconds is None else seconds / 60,
            basis=basis,
            artifact_bytes=size,
            memory_bytes=memory_bytes(plan),
            usd=usd,
        )

    def _seconds(self, identifier: BuildIdentifier, size: int, stages: Sequence[str]) -> tuple[float | None, str]:
        own = _sum(stages, [row for row in self._past if row.identifier == str(identifier)])
        if own is not None:
            return own, "its own last times"
        for row in self._past:
            if _alike(identifier, size, row):
                seconds = _sum(stages, [other for other in self._past if other.identifier == row.identifier])
                if seconds is not None:
                    return seconds, f"the times of {row.identifier}"
        return None, "no night has run it"


def artifact_bytes(plan: BuildPlan) -> int:
    """Weights of all ranks, each linear in its precision and the rest in 16 bits."""
    shape = ModelShape.from_config(plan.checkpoint.config.raw)
    tensors = plan.checkpoint.tensors
    count = weights.on_fullest_rank(weights.of_tensors(tensors, shape) if tensors else weights.of_shape(shape), 1, 1)
    rest = count.plain + count.embedding + count.head
    return int(count.linear * weight_bits(plan.recipe, plan.checkpoint) / 8) + 2 * rest


def memory_bytes(plan: BuildPlan) -> int:
    """RAM that building and comparing hold at once, rounded up in favour of the machine.

    The cpu runtime's comparison has two servers, each with the weights in float32 at worst and its KV pool; the others
    hold the weights in RAM while an engine is made of them, and serve from the GPU.
    """
    config = plan.checkpoint.config
    parameters = sum(entry.size_bytes for entry in plan.checkpoint.tensors.values()) // 2
    if plan.runtime != "cpu":
        return _PROCESS_BYTES + 2 * 2 * parameters
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_size * _FLOAT_BYTES
    return 2 * (_PROCESS_BYTES + _FLOAT_BYTES * parameters + token_bytes * (plan.kv_cache.max_tokens or 0))


def _alike(identifier: BuildIdentifier, size: int, row: CellResult) -> bool:
    """Whether a past cell ran the same stages on about as many bytes."""
    other = BuildIdentifier.parse(row.identifier)
    same = (other.precision, other.sku, other.tp, other.pp, other.runtime) == (
        identifier.precision,
        identifier.sku,
        identifier.tp,
        identifier.pp,
        identifier.runtime,
    )
    return same and row.size_bytes is not None and abs(row.size_bytes - size) <= _ALIKE * size


def _sum(stages: Sequence[str], rows: Iterable[CellResult]) -> float | None:
    """Seconds of all stages, each from the newest row that ran it; None when a stage was never run."""
    newest: dict[str, float] = {}
    for row in rows:
        for stage in row.stages:
            if stage.action == "run":
                newest.setdefault(stage.name, stage.seconds)
    if any(name not in newest for name in stages):
        return None
    return sum(newest[name] for name in stages)
