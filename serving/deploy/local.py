"""A real tritonserver on this machine, on loopback, that goes on when the command has ended."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from serving.client.errors import RequestError
from serving.deploy import state
from serving.deploy.compatibility import Target, check
from serving.deploy.options import DeployOptions, Outcome
from serving.deploy.ports import choose_ports
from serving.deploy.readiness import endpoint_of, probe
from serving.deploy.server import RunningServer, rollout_error, start_server, wait_until_loaded
from serving.deploy.state import Deployment
from serving.deploy.tritonserver import TritonServer, cpu_backend_files, find_tritonserver
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError


def deploy(artifact_root: Path, manifest: Mapping[str, Any], options: DeployOptions, talk: Talk) -> Outcome:
    """Start a server for the artifact and return once it has generated a token.

    Raises IncompatibleError before anything starts when the artifact does not fit, HostError when a port is taken or
    no server is there, RolloutError (with the log's telling lines, nothing left running) when it does not get ready.
    """
    check(manifest, options.target or local_target(find_tritonserver()))
    ports = choose_ports(http=options.http_port, grpc=options.grpc_port, metrics=options.metrics_port)
    name, folder = state.claim(options.store, str(manifest["identifier"]), options.name)
    try:
        deployment = state.new(name, "local", artifact_root, manifest, ports)
        state.write(folder, deployment)
        return _start(deployment, folder, manifest, options, talk)
    except BaseException:
        # Also on an interrupt: a half-started deployment would hold its name and ports.
        state.forget(folder)
        raise


def local_target(server: TritonServer) -> Target:
    """What the server on this machine can serve. GPU facts are the caller's to add."""
    has_engine_backend = server.backends is not None and (server.backends / "tensorrtllm").is_dir()
    trtllm = _version("tensorrt_llm")
    runtimes: tuple[str, ...] = ("cpu",)
    runtimes += ("tensorrt",) if has_engine_backend else ()
    runtimes += ("pytorch",) if trtllm and importlib.util.find_spec("tensorrt_llm") else ()
    return Target(
        name=f"tritonserver {server.version or ''} on this machine".replace("  ", " "),
        runtimes=runtimes,
        trtllm=trtllm,
        tensorrt=_version("tensorrt"),
    )


def log_lines(folder: Path, deployment: Deployment, *, follow: bool) -> Iterator[str]:
    """The log's lines; with `follow`, new ones as they come until the server is gone."""
    path = folder / "tritonserver.log"
    if not path.is_file():
        raise HostError(f"{deployment.name} has no log yet", expected="a server that was started", fix="try again soon")
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            alive = deployment.process is not None and deployment.process.alive()
            while line := file.readline():
                yield line.rstrip("\n")
            if not follow or not alive:
                return
            time.sleep(0.2)


def _start(
    deployment: Deployment, folder: Path, manifest: Mapping[str, Any], options: DeployOptions, talk: Talk
) -> Outcome:
    cpu = deployment.runtime == "cpu"
    server = start_server(
        Path(deployment.artifact),
        work=folder,
        ports=deployment.ports,
        cpu_backend=cpu_backend_files() if cpu and options.cpu_backend is None else options.cpu_backend or (),
        world_size=1 if deployment.runtime != "tensorrt" else _world_size(manifest),
        environment=_cpu_settings(manifest) if cpu else None,
    )
    try:
        started = replace(deployment, process=server.process, shm_prefix=server.shm_prefix)
        state.write(folder, started)
        talk.say(f"tritonserver {server.process.pid} loads {deployment.identifier}")
        seconds = _wait_for_token(server, started, options.timeout_s)
        talk.say(f"{deployment.name} answered its first token in {seconds:.2f} s")
        ready = replace(started, ready=True)
        state.write(folder, ready)
    except BaseException:
        server.stop()
        raise
    return Outcome(name=ready.name, started=True, deployment=ready, files=(server.log,))


def _wait_for_token(server: RunningServer, deployment: Deployment, timeout_s: float) -> float:
    deadline = time.monotonic() + timeout_s
    wait_until_loaded(server, timeout_s=timeout_s)
    left_s = max(1.0, deadline - time.monotonic())
    try:
        return probe(endpoint_of(deployment), timeout_s=left_s)
    except RequestError as error:
        raise rollout_error(server.log, f"the models loaded, but no token came: {error.happened}") from error


def _cpu_settings(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What the cpu backend is told beside the repository, which is the engine's own and has no place for it."""
    return {"TRTLLM_KIT_CPU_THREADS": str(manifest["spec"].get("serving", {}).get("cpu_threads", 0))}


def _world_size(manifest: Mapping[str, Any]) -> int:
    return int(manifest["target"]["tp_size"]) * int(manifest["target"]["pp_size"])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
