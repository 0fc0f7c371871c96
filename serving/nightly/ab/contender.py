"""One side of a comparison: something that can be started, asked and stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from serving.client.request import Endpoint
from serving.deploy import local, state
from serving.deploy.machine import this_machine
from serving.deploy.options import DeployOptions
from serving.deploy.readiness import endpoint_of
from serving.deploy.server import remove_shared_memory, rollout_error
from serving.deploy.state import Deployment
from trtllm_kit.console import Silent
from trtllm_kit.errors import IncompatibleError, RolloutError

_PORT_TAKEN = "a port was taken"
_STARTS = 3
"""A port that was free is taken now and then before the server has it: that is no fault of the side."""


class Contender(Protocol):
    """The candidate or the incumbent."""

    name: str

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it answers; None while it is stopped."""

    @property
    def alive(self) -> bool:
        """Whether what was started still runs."""

    def start(self) -> float:
        """Seconds until it has generated its first token. LostError when it does not get there."""

    def stop(self) -> None:
        """End it; without effect on one that is stopped."""

    def explain(self, happened: str) -> str:
        """What happened to it, with the telling lines of its log."""


class LostError(Exception):
    """A side that cannot be measured: it did not start, did not answer, or died. `reason` is for a person."""

    def __init__(self, side: Contender, reason: str) -> None:
        super().__init__(f"the {side.name}: {reason}")
        self.side, self.reason = side, str(self)


@dataclass(kw_only=True)
class Served:
    """An artifact on a tritonserver of this machine.

    It is deployed in a store of its own: nobody sees it among the deployments, and all that it writes lies below
    `scratch`, where `keeper` finds it.
    """

    name: str
    artifact: Path
    manifest: Mapping[str, Any]
    scratch: Path
    timeout_s: float
    _deployment: Deployment | None = field(default=None, init=False)

    @property
    def endpoint(self) -> Endpoint | None:
        return None if self._deployment is None else endpoint_of(self._deployment)

    @property
    def alive(self) -> bool:
        found = self._deployment
        return found is not None and found.process is not None and found.process.alive()

    def start(self) -> float:
        for attempt in range(1, _STARTS + 1):
            began = time.monotonic()
            try:
                self._deployment = local.deploy(self.artifact, self.manifest, self._options, Silent()).deployment
                return time.monotonic() - began
            except (RolloutError, IncompatibleError) as error:
                if attempt == _STARTS or _PORT_TAKEN not in error.happened:
                    raise LostError(self, error.happened) from error
        raise AssertionError("the last attempt returns or raises")

    def stop(self) -> None:
        found, self._deployment = self._deployment, None
        if found is not None and found.process is not None:
            # No grace: nobody is being answered, and a clean stop of the stubs takes seconds.
            found.process.terminate(grace_s=0.0)
            found.process.alive()  # collects it; else each of many rounds would leave a zombie
            remove_shared_memory(str(found.shm_prefix))
            state.forget(self._folder)

    def explain(self, happened: str) -> str:
        return rollout_error(self._folder / "tritonserver.log", happened).happened

    @cached_property
    def _options(self) -> DeployOptions:
        """Looks once for what this machine has: each of many rounds starts the server anew."""
        return DeployOptions(
            store=self.scratch, name=self.name, timeout_s=self.timeout_s, target=this_machine(self.manifest)
        )

    @property
    def _folder(self) -> Path:
        return self.scratch / "deployments" / self.name
