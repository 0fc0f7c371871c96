"""Where an artifact can be deployed: one row per target, all of one shape."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from serving.deploy import containers, local
from serving.deploy.options import DeployOptions, Outcome
from trtllm_kit.console import Talk


class DeployTarget(Protocol):
    """Brings an artifact up, or raises and leaves nothing running."""

    def __call__(
        self, artifact_root: Path, manifest: Mapping[str, Any], options: DeployOptions, talk: Talk
    ) -> Outcome: ...


TARGETS: Mapping[str, DeployTarget] = MappingProxyType(
    {
        "local": local.deploy,
        "docker": partial(containers.deploy, containers.DOCKER),
        "compose": partial(containers.deploy, containers.COMPOSE),
    }
)
