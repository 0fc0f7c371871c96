"""The matrix as arrays of tasks: one for each SKU, all its cells, in an order that only a new installation changes.

An index of an array finds its cell by its line, night after night. So every cell is in, changed or not (the cell itself
sees that nothing changed, and ends), and models stay as they are written: a branch is looked up anew each night.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from builder.plan import BuildPlan
from profiles.skus import Sku
from serving.nightly.cells import Cell
from serving.nightly.estimate import artifact_bytes
from serving.nightly.executors.protocol import CellTask
from serving.nightly.plan import PlannedCell
from serving.nightly.session import Session
from serving.nightly.tasks import task_of
from trtllm_kit.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class SkuGroup:
    """All cells of one SKU. The largest of them sets what each index is given."""

    sku: Sku
    tasks: tuple[CellTask, ...]
    disk_bytes: int

    @property
    def name(self) -> str:
        """As part of a name in Kubernetes."""
        return self.sku.id.replace("_", "-")

    @property
    def gpus(self) -> int:
        return max(task.gpus for task in self.tasks)

    @property
    def memory_bytes(self) -> int:
        return max(task.memory_bytes for task in self.tasks)

    @property
    def lines(self) -> str:
        """The tasks as JSONL."""
        return "".join(json.dumps(task.to_json(), sort_keys=True) + "\n" for task in self.tasks)


def groups_of(session: Session) -> list[SkuGroup]:
    """By SKU, in the order of the matrix. Raises what keeps a cell from being resolved, unless it can never be."""
    cells = [cell for cell in session.matrix.cells if _possible(cell)]
    if not cells:
        raise SpecError(
            f"no cell of {session.path} can be built",
            expected="one cell at least",
            fix="see why with `trtllm-kit nightly plan`",
        )
    by_sku: dict[str, list[Cell]] = {}
    for cell in cells:
        by_sku.setdefault(cell.sku, []).append(cell)
    return [_group(rows, session) for rows in by_sku.values()]


def _possible(cell: Cell) -> bool:
    if cell.broken and cell.error is not None:
        raise cell.error
    return cell.plan is not None


def _group(cells: Sequence[Cell], session: Session) -> SkuGroup:
    plans = [cell.plan for cell in cells if cell.plan is not None]
    return SkuGroup(
        sku=plans[0].sku,
        tasks=tuple(_task(cell, session) for cell in cells),
        disk_bytes=max(_disk_bytes(plan) for plan in plans),
    )


def _task(cell: Cell, session: Session) -> CellTask:
    row = PlannedCell(cell=cell, action="build", why="")
    task = task_of(row, night="", nightly=session.nightly, depot=session.url, store=None, offers=lambda _sku: True)
    return replace(task, spec={**task.spec, "model": cell.tree["model"]})


def _disk_bytes(plan: BuildPlan) -> int:
    """The checkpoint, and at most three times the artifact: what is quantized, the engine, what is in service."""
    checkpoint = sum(entry.size_bytes for entry in plan.checkpoint.tensors.values())
    return checkpoint + 3 * artifact_bytes(plan)
