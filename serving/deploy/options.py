"""What every target is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.deploy.compatibility import Target
from serving.deploy.state import Deployment

DEFAULT_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """How to deploy. Ports that are None are chosen (local) or Triton's own 8000 to 8002 (containers)."""

    store: Path
    name: str | None = None  # None: the identifier, with a number behind it when that is taken
    http_port: int | None = None
    grpc_port: int | None = None
    metrics_port: int | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S  # until the first generated token
    target: Target | None = None  # facts about the target; None: what can be seen from here
    image: str | None = None  # container image; None: the one that the manifest names
    gpus: tuple[str, ...] = ()  # GPU indices or UUIDs for a container; empty: as many as the artifact needs
    out: Path | None = None  # folder for written files; None: the deployment's own
    cpu_backend: tuple[Path, ...] | None = None  # files of the backend named tensorrtllm; None: the kit's own


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a deployment."""

    name: str
    started: bool
    deployment: Deployment | None = None
    files: tuple[Path, ...] = ()
    command: str = ""  # how to start it by hand, when it was not started
    note: str = ""
