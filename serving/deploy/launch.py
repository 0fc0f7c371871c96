"""The exact command line of a server, and of one server per rank under mpirun.

In leader mode every rank runs its own tritonserver on the same ports; only rank 0 opens them, and the others load
nothing but the engine and wait in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serving.deploy.ports import Ports

ENGINE_MODEL = "tensorrt_llm"
CONTAINER_PORTS = Ports(http=8000, grpc=8001, metrics=8002)


@dataclass(frozen=True, kw_only=True)
class ServerLine:
    """What one tritonserver is started with. Paths are as the server sees them, relative to its working directory."""

    binary: str = "tritonserver"
    repository: str = "model_repository"
    ports: Ports = CONTAINER_PORTS
    address: str | None = None  # None: Triton's own default, all interfaces (inside a container)
    backends: str | None = None
    caches: str | None = None
    shm_prefix: str = "prefix0_"
    gpu_metrics: bool = True
    exit_timeout_s: int = 30
    extra: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        """The command of a single process.

        Models are complete as rendered, so --disable-auto-complete-config saves starting every stub twice.
        """
        line = [self.binary, f"--model-repository={self.repository}", "--disable-auto-complete-config"]
        for service, port in self.ports.rows():
            line.append(f"--{service}-port={port}")
            if self.address is not None:
                line.append(f"--{service}-address={self.address}")
        if self.backends is not None:
            line.append(f"--backend-directory={self.backends}")
        if self.caches is not None:
            line.append(f"--cache-directory={self.caches}")
        if not self.gpu_metrics:
            line.append("--allow-gpu-metrics=false")
        line.append(f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}")
        line.append(f"--exit-timeout-secs={self.exit_timeout_s}")
        return [*line, *self.extra]


def launch_argv(world_size: int, line: ServerLine, *, engine_model: str = ENGINE_MODEL) -> list[str]:
    """The command that serves an engine of `world_size` = tp * pp ranks.

    One rank needs no mpirun; with more, TensorRT-LLM refuses to load unless the MPI world is exactly that large.
    """
    if world_size == 1:
        return line.argv()
    argv = ["mpirun", "--allow-run-as-root", "--oversubscribe"]
    for rank in range(world_size):
        argv += [":"] if rank else []
        argv += ["-n", "1", *_rank_argv(rank, line, engine_model)]
    return argv


def _rank_argv(rank: int, line: ServerLine, engine_model: str) -> Sequence[str]:
    own = replace(line, shm_prefix=f"{line.shm_prefix.removesuffix('prefix0_')}prefix{rank}_").argv()
    return own if rank == 0 else [*own, "--model-control-mode=explicit", f"--load-model={engine_model}"]
