"""Cells on the nodes of a Ray cluster that is there already, each pinned to nodes that bear its SKU's label.

Ray lets a task wait for ever for a node that nobody has. So what no node can run is found out before, and looked at
again while tasks wait. Attempts are counted here and not by Ray, by the table that all executors share.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serving.nightly.executors import ray_cluster
from serving.nightly.executors.protocol import CellTask, Finish
from serving.nightly.executors.ray_task import run_task
from serving.nightly.retry import again
from trtllm_kit import __version__
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError

_POLL_S = 1.0
_CANCEL_S = 10.0
_KILLED = 128 + 9


class RayExecutor:
    """One Ray task a cell.

    Args:
        node_wait_s: how long cells wait for a node that can run them to come back.
        command: in place of `trtllm-kit nightly cell -` on the node.
    """

    name = "ray"

    def __init__(
        self,
        *,
        address: str = "auto",
        sku_label: str = "sku",
        allow_unauthenticated: bool = False,
        node_wait_s: float = 600.0,
        command: Sequence[str] = (),
    ) -> None:
        self._address = address
        self._sku_label = sku_label
        self._allow_unauthenticated = allow_unauthenticated
        self._node_wait_s = node_wait_s
        self._command = tuple(command)
        self._ray: Any = None
        self._remote: Any = None  # exported to the cluster once, and not for each cell

    def preflight(self, tasks: Sequence[CellTask]) -> Mapping[str, str]:
        """Cells that no live node can ever run. Raises HostError when there is no cluster, or it may not be used."""
        return {task.identifier: words for task, words in self._refused(tasks)}

    def run(self, tasks: Sequence[CellTask], talk: Talk) -> Iterator[Finish]:
        """Each task's end as it comes; closing the iterator cancels what is out and leaves the cluster."""
        out: dict[Any, tuple[CellTask, int]] = {}
        stranded_since: dict[str, float] = {}
        try:
            out.update((self._submit(task, 1), (task, 1)) for task in tasks)
            while out:
                done, _ = self._connected().wait(list(out), num_returns=1, timeout=_POLL_S)
                for ref in done:
                    task, attempt = out.pop(ref)
                    finish = self._finish(ref, task, attempt)
                    if again(finish.exit_code, attempt):
                        talk.warn(f"{task.identifier}: {finish.words or f'exit {finish.exit_code}'}; trying again")
                        out[self._submit(task, attempt + 1)] = (task, attempt + 1)
                    else:
                        yield finish
                for ref, words in self._stranded(out, stranded_since):
                    self._connected().cancel(ref, force=True)
                    task, attempt = out.pop(ref)
                    yield Finish(task=task, exit_code=HostError.exit_code, node="", attempts=attempt, words=words)
        finally:
            self._leave(list(out))

    def _connected(self) -> Any:
        if self._ray is None:
            self._ray = ray_cluster.connect(self._address, allow_unauthenticated=self._allow_unauthenticated)
            self._remote = self._ray.remote(run_task)
        return self._ray

    def _refused(self, tasks: Sequence[CellTask]) -> Iterator[tuple[CellTask, str]]:
        nodes = ray_cluster.nodes_of(self._connected(), self._sku_label)
        for task in tasks:
            words = ray_cluster.refusal(task, nodes, self._sku_label)
            if words:
                yield task, words

    def _submit(self, task: CellTask, attempt: int) -> Any:
        self._connected()
        placed = self._remote.options(
            name=task.identifier,
            num_cpus=1,
            num_gpus=task.gpus,
            memory=task.memory_bytes or None,
            label_selector={self._sku_label: task.sku},
            max_retries=0,
        )
        return placed.remote(
            task.to_json(),
            attempt=attempt,
            command=self._command,
            version=__version__,
            tokens=not self._allow_unauthenticated,
        )

    def _finish(self, ref: Any, task: CellTask, attempt: int) -> Finish:
        """How one attempt ended. A lost node or a killed worker said nothing about the task: as if it was killed."""
        errors = self._connected().exceptions
        try:
            end = self._connected().get(ref)
        except errors.RayTaskError as error:
            lines = str(error).strip().splitlines()
            end = {"exit_code": HostError.exit_code, "node": "", "words": f"the node cannot run it: {lines[-1]}"}
        except errors.RayError as error:
            end = {"exit_code": _KILLED, "node": "", "words": str(error).strip().partition(". ")[0]}
        return Finish(task=task, attempts=attempt, **end)

    def _stranded(self, out: Mapping[Any, tuple[CellTask, int]], since: dict[str, float]) -> list[tuple[Any, str]]:
        """Tasks that no node could run for as long as we wait, each with the reason. `since` is kept between calls."""
        now = time.monotonic()
        words = {task.identifier: why for task, why in self._refused([task for task, _ in out.values()])}
        for identifier in [name for name in since if name not in words]:
            del since[identifier]
        for identifier in words:
            since.setdefault(identifier, now)
        return [
            (ref, f"{words[task.identifier]}, for {now - since[task.identifier]:.0f} s")
            for ref, (task, _) in out.items()
            if task.identifier in words and now - since[task.identifier] >= self._node_wait_s
        ]

    def _leave(self, out: Sequence[Any]) -> None:
        """Kill what is out (a worker's end is the end of what it started), then disconnect."""
        ray, self._ray = self._ray, None
        for ref in out:
            ray.cancel(ref, force=True)
        if out:
            ray.wait(list(out), num_returns=len(out), timeout=_CANCEL_S)
        ray.shutdown()
