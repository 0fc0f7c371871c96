"""The pinned image, by `docker run` or by compose: the files are always written, and run where docker runs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving.client.errors import RequestError
from serving.deploy import state
from serving.deploy.compatibility import Target, check
from serving.deploy.launch import CONTAINER_PORTS, ServerLine, launch_argv
from serving.deploy.options import DeployOptions, Outcome
from serving.deploy.ports import Ports, choose_ports
from serving.deploy.readiness import endpoint_of, probe
from serving.deploy.state import Deployment
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError, RolloutError, SpecError
from trtllm_kit.files import write_text_atomic

_DOCKER_INFO_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 10.0
_POLL_S = 2.0


@dataclass(frozen=True, kw_only=True)
class ContainerKind:
    """One way to run the image: how it starts and how it ends, given the folder of files and the container's name."""

    target: str
    start: Callable[[Path, str], list[str]]
    stop: Callable[[Path, str], list[str]]


DOCKER = ContainerKind(
    target="docker",
    start=lambda folder, name: ["sh", str(folder / "docker_run.sh")],
    stop=lambda folder, name: ["docker", "rm", "--force", name],
)
COMPOSE = ContainerKind(
    target="compose",
    start=lambda folder, name: ["docker", "compose", "--file", str(folder / "compose.yaml"), "up", "--detach"],
    stop=lambda folder, name: ["docker", "compose", "--file", str(folder / "compose.yaml"), "down"],
)


def deploy(
    kind: ContainerKind, artifact_root: Path, manifest: Mapping[str, Any], options: DeployOptions, talk: Talk
) -> Outcome:
    """Write launch.sh, compose.yaml and docker_run.sh, and start the container where docker runs.

    Raises IncompatibleError before any file is written, RolloutError when the container gives no token in time.
    """
    image = options.image or manifest["versions"].get("triton_image")
    check(manifest, options.target or Target(name=image or "a container", runtimes=("tensorrt", "pytorch")))
    if not image:
        raise SpecError("the artifact names no container image", expected="an image", fix="give one with --image")
    problem = docker_problem()
    name = options.name or str(manifest["identifier"])
    if problem is not None:
        files = _write_files(artifact_root, manifest, options, image, name, _given_ports(options))
        return _only_written(kind, name, files, problem)
    name, folder = state.claim(options.store, str(manifest["identifier"]), options.name)
    try:
        ports = choose_ports(**vars(_given_ports(options)))
        files = _write_files(artifact_root, manifest, options, image, name, ports)
        deployment = _record(kind, artifact_root, manifest, name, files[0].parent, ports)
        state.write(folder, deployment)
        return _start(kind, folder, deployment, files, options.timeout_s, talk)
    except BaseException:
        state.forget(folder)
        raise


def docker_problem() -> str | None:
    """Why containers cannot be started here; None when they can."""
    if shutil.which("docker") is None:
        return "there is no docker command on this machine"
    try:
        done = _docker("info", "--format", "{{.ServerVersion}}", timeout_s=_DOCKER_INFO_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "docker does not answer"
    return None if done.returncode == 0 else "the docker daemon is not running or not reachable for this user"


def alive(container: str) -> bool:
    """Whether the container runs."""
    done = _docker("inspect", "--format", "{{.State.Running}}", container, timeout_s=_DOCKER_INFO_TIMEOUT_S)
    return done.returncode == 0 and done.stdout.strip() == "true"


def log_lines(container: str, *, follow: bool) -> Iterator[str]:
    """The container's log."""
    argv = ["docker", "logs", *(["--follow"] if follow else []), container]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        try:
            for line in process.stdout or ():
                yield line.rstrip("\n")
        finally:
            process.terminate()


def stop(deployment: Deployment) -> None:
    """End the container; HostError when docker refuses."""
    done = _run(list(deployment.stop_argv))
    if done.returncode != 0:
        raise HostError(f"docker could not stop {deployment.name}: {done.stderr.strip()}", fix="see `docker ps`")


def _given_ports(options: DeployOptions) -> Ports:
    return Ports(
        http=options.http_port or CONTAINER_PORTS.http,
        grpc=options.grpc_port or CONTAINER_PORTS.grpc,
        metrics=options.metrics_port or CONTAINER_PORTS.metrics,
    )


def _write_files(
    artifact_root: Path, manifest: Mapping[str, Any], options: DeployOptions, image: str, name: str, ports: Ports
) -> tuple[Path, ...]:
    from serving.render.deployment import DeploymentValues, render_deployment

    folder = (options.out or options.store / "containers" / name).resolve()
    world_size = int(manifest["target"]["tp_size"]) * int(manifest["target"]["pp_size"])
    pairs = zip(ports.rows(), CONTAINER_PORTS.rows(), strict=True)
    # The LLM API starts its own ranks; an engine needs one server for each.
    command = launch_argv(world_size if manifest["runtime"] == "tensorrt" else 1, ServerLine())
    values = DeploymentValues(
        name=name,
        image=image,
        command=tuple(command),
        artifact=str(artifact_root.resolve()),
        deployment=str(folder),
        ports=tuple((host, inside) for (_, host), (_, inside) in pairs),
        gpu_ids=options.gpus or tuple(str(index) for index in range(world_size)),
    )
    texts = render_deployment(values)
    for file, text in texts.items():
        write_text_atomic(folder / file, text)
    return tuple(folder / file for file in sorted(texts))


def _only_written(kind: ContainerKind, name: str, files: tuple[Path, ...], problem: str) -> Outcome:
    command = shlex.join(kind.start(files[0].parent, name))
    return Outcome(
        name=name,
        started=False,
        files=files,
        command=command,
        note=f"nothing was started: {problem}. The files are complete; where docker runs, start it with: {command}",
    )


def _record(
    kind: ContainerKind, artifact_root: Path, manifest: Mapping[str, Any], name: str, folder: Path, ports: Ports
) -> Deployment:
    claimed = state.new(name, kind.target, artifact_root, manifest, ports)
    return replace(claimed, container=name, stop_argv=tuple(kind.stop(folder, name)))


def _start(
    kind: ContainerKind, folder: Path, deployment: Deployment, files: tuple[Path, ...], timeout_s: float, talk: Talk
) -> Outcome:
    argv = kind.start(files[0].parent, deployment.name)
    talk.say(f"starting {deployment.name}: {shlex.join(argv)}")
    done = _run(argv)
    try:
        if done.returncode != 0:
            raise RolloutError(
                f"docker did not start {deployment.name}: {done.stderr.strip()}", fix="see `docker ps --all`"
            )
        _wait_for_token(deployment, timeout_s)
    except BaseException:
        _run(list(deployment.stop_argv))
        raise
    ready = replace(deployment, ready=True)
    state.write(folder, ready)
    return Outcome(name=ready.name, started=True, deployment=ready, files=files, command=shlex.join(argv))


def _wait_for_token(deployment: Deployment, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            probe(endpoint_of(deployment), timeout_s=_PROBE_TIMEOUT_S)
            return
        except RequestError as error:
            gone = not alive(deployment.container or deployment.name)
            if gone or time.monotonic() > deadline:
                lines = "".join(f"\n    {line}" for line in list(log_lines(deployment.name, follow=False))[-15:])
                what = "the container ended" if gone else f"no token came within {timeout_s:g} s: {error.happened}"
                raise RolloutError(f"{what}{lines}", expected="one generated token") from error
            time.sleep(_POLL_S)


def _docker(*words: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout_s, check=False)


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False)
