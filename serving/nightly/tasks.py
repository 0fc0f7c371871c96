"""What is handed to an executor: the cell with everything pinned that another machine might decide otherwise."""

from __future__ import annotations

import copy
from typing import Any

from builder.plan import BuildPlan
from builder.store import Store
from serving.nightly.estimate import memory_bytes
from serving.nightly.executors.protocol import CellTask
from serving.nightly.plan import Offers, PlannedCell
from serving.nightly.spec import Nightly
from trtllm_kit import spec as specs


def task_of(
    row: PlannedCell,
    *,
    night: str,
    nightly: Nightly,
    depot: str,
    store: Store | None,
    offers: Offers,
    force: bool = False,
) -> CellTask:
    """The task of a cell that can be built. `store`: of this machine, for executors that stay on it."""
    plan = row.cell.plan
    assert plan is not None
    return CellTask(
        night=night,
        identifier=row.identifier,
        sku=plan.sku.id,
        spec=_pinned(row.cell.tree, plan),
        depot=depot,
        store=str(store.root) if store else None,
        stage_minutes=nightly.spec.limits.model_dump()["stage_minutes"],
        promotion=nightly.spec.promotion.model_dump(mode="json"),
        memory_bytes=row.estimate.memory_bytes if row.estimate else memory_bytes(plan),
        gpus=_gpus(plan, offers),
        force=force,
    )


def _pinned(tree: Any, plan: BuildPlan) -> dict[str, Any]:
    pinned = copy.deepcopy(dict(tree))
    values: dict[str, Any] = {
        "model": plan.checkpoint.source,
        "name": plan.identifier.model,
        "precision": plan.precision,
        "runtime": plan.runtime,
        "trtllm_version": plan.trtllm_version,
        "target.sku": plan.sku.id,
        "target.tp_size": plan.tp_size,
        "target.pp_size": plan.pp_size,
    }
    if plan.calibration is not None:
        values |= {"calibration.device": plan.calibration.device, "calibration.dtype": plan.calibration.dtype}
    values |= {f"pins.{name}": value for name, value in plan.pins.known().items()}
    for key, value in values.items():
        specs.put(pinned, key, value)
    return pinned


def _gpus(plan: BuildPlan, offers: Offers) -> int:
    """trtllm-build needs the very GPU; what is only served needs it where it can be measured at all."""
    needed = plan.runtime == "tensorrt" or (plan.runtime == "pytorch" and offers(plan.sku.id))
    return plan.world_size if needed else 0
