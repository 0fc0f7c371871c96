"""What `deploy status`, `deploy logs` and `deploy stop` do, whatever a deployment runs in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving.client.errors import RequestError
from serving.deploy import containers, local, state
from serving.deploy.readiness import endpoint_of, probe
from serving.deploy.server import STOP_GRACE_S, remove_shared_memory
from serving.deploy.state import Deployment

PROBE_TIMEOUT_S = 10.0
State = Literal["running", "starting", "unready", "dead"]


@dataclass(frozen=True, kw_only=True)
class DeploymentStatus:
    """A deployment and what it does now. `running` means that a token was generated a moment ago."""

    deployment: Deployment
    state: State
    first_token_s: float | None = None
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **self.deployment.to_json(),
            "http_url": self.deployment.http_url,
            "state": self.state,
            "first_token_s": self.first_token_s,
            "detail": self.detail,
        }


def status(store: Path, *, probe_timeout_s: float = PROBE_TIMEOUT_S) -> tuple[DeploymentStatus, ...]:
    """Every deployment of this store, each asked for a token."""
    return tuple(status_of(deployment, probe_timeout_s) for _, deployment in state.read_all(store))


def status_of(deployment: Deployment, probe_timeout_s: float = PROBE_TIMEOUT_S) -> DeploymentStatus:
    """What one deployment does now. A port that somebody else answers on does not count: its own process must live."""
    starting = not deployment.ready and deployment.deployer.alive()
    if not _alive(deployment):
        ended: State = "starting" if starting and deployment.process is None else "dead"
        return DeploymentStatus(deployment=deployment, state=ended, detail=_ENDED[ended])
    try:
        seconds = probe(endpoint_of(deployment), timeout_s=probe_timeout_s)
    except RequestError as error:
        return DeploymentStatus(
            deployment=deployment, state="starting" if starting else "unready", detail=error.happened
        )
    return DeploymentStatus(deployment=deployment, state="running", first_token_s=seconds)


def logs(store: Path, name: str, *, follow: bool = False) -> Iterator[str]:
    """Lines of a deployment's log; with `follow` it ends when the server does."""
    folder, deployment = state.find(store, name)
    if deployment.container is not None:
        return containers.log_lines(deployment.container, follow=follow)
    return local.log_lines(folder, deployment, follow=follow)


def stop(store: Path, name: str) -> bool:
    """End a deployment and forget it; the artifact stays. False when its server had to be killed."""
    folder, deployment = state.find(store, name)
    clean = True
    if deployment.container is not None:
        containers.stop(deployment)
    if deployment.process is not None:
        clean = deployment.process.terminate(grace_s=STOP_GRACE_S)
    if deployment.shm_prefix is not None:
        remove_shared_memory(deployment.shm_prefix)
    state.forget(folder)
    return clean


def _alive(deployment: Deployment) -> bool:
    if deployment.container is not None:
        return containers.alive(deployment.container)
    return deployment.process is not None and deployment.process.alive()


_ENDED = {"starting": "its server has not been started yet", "dead": "its tritonserver is gone; see its log"}
