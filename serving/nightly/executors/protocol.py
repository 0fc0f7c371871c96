"""A cell as a task that any machine can take, and what an executor does with tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from trtllm_kit.console import Talk


@dataclass(frozen=True, kw_only=True)
class CellTask:
    """One cell to build and to compare, plain JSON: `trtllm-kit nightly cell TASK.json` runs it wherever it is put."""

    night: str
    identifier: str
    sku: str
    spec: Mapping[str, Any]  # for trtllm_kit.spec.parse: axes and overrides applied, the model absolute or at a commit
    depot: str  # URL
    store: str | None = None  # folder of the local store; None: that of the machine
    stage_minutes: Mapping[str, float] = field(
        default_factory=dict
    )  # longest time of a stage; "default" for the others
    promotion: Mapping[str, Any] = field(default_factory=dict)  # the decision rule, as in nightly.yaml
    memory_bytes: int = 0  # what its build is expected to hold in RAM
    gpus: int = 0  # of its SKU, for compiling and measuring; 0: the build needs none
    force: bool = False  # build and compare though nothing changed

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> CellTask:
        """Inverse of `to_json`."""
        return cls(**tree)


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How the process of a task ended. What it found out is in the depot; this is for when it could not say."""

    task: CellTask
    exit_code: int  # of trtllm_kit.errors; 128 + signal when it was killed
    node: str
    attempts: int
    words: str = ""  # what an executor knows and the process could not say: node lost, out of memory, out of time
    stage: str | None = None  # that ran out of time


class Executor(Protocol):
    """Runs tasks on the nodes that it has."""

    name: str

    def preflight(self, tasks: Sequence[CellTask]) -> Mapping[str, str]:
        """Tasks that no node can ever run, by identifier, with the reason. Raises HostError when it has no nodes."""

    def run(self, tasks: Sequence[CellTask], talk: Talk) -> Iterator[Finish]:
        """Each task's end as it comes. A failed task never stops the others; closing the iterator stops all of them."""
