"""Files around a model repository: how its container starts, with one process for each rank.

The server's command line is computed by `serving.deploy.launch`; here it only finds its place in a script and in what
runs that script: `docker run` or a compose service. The artifact's root is the working directory, so that the
repository's relative paths hold.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.render.environment import environment

_TEMPLATES = {
    "launch.sh": "deploy/launch.sh.j2",
    "compose.yaml": "deploy/compose.yaml.j2",
    "docker_run.sh": "deploy/docker_run.sh.j2",
}


@dataclass(frozen=True, kw_only=True)
class DeploymentValues:
    """One deployment. Host paths are absolute."""

    name: str  # of the container and of the compose service: [a-z0-9_.-]
    image: str  # "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
    command: tuple[str, ...]  # tritonserver, or mpirun with one for each rank; its ports are `container_ports`
    artifact: str  # host folder that holds engine/, tokenizer/ and model_repository/
    deployment: str  # host folder that holds launch.sh
    ports: tuple[tuple[int, int], ...]  # (host, container): HTTP first, then gRPC and metrics
    bind: str = "127.0.0.1"  # host address that publishes the ports
    gpu_ids: tuple[str, ...] = ()  # as `nvidia-smi -L` numbers or names them; empty: all
    shm_size_gb: int = 8
    artifact_mount: str = "/artifact"
    deployment_mount: str = "/deployment"


def render_deployment(values: DeploymentValues) -> dict[str, str]:
    """`launch.sh`, `compose.yaml` and `docker_run.sh` by name, byte-stable."""
    names = {
        **vars(values),
        "command_lines": [shlex.join(line) for line in _lines(values.command)],
        "gpu_option": f'"device={",".join(values.gpu_ids)}"' if values.gpu_ids else "all",
        "ready_port": values.ports[0][1],
    }
    return {name: environment().get_template(path).render(names) for name, path in _TEMPLATES.items()}


def _lines(command: Sequence[str]) -> Iterator[list[str]]:
    """Words of a command, a new line after each colon: mpirun's separator between ranks."""
    line: list[str] = []
    for word in command:
        line.append(word)
        if word == ":":
            yield line
            line = []
    yield line
