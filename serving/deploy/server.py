"""Start a real tritonserver on loopback, know when it is up, and leave nothing behind when it goes."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.deploy import server_log
from serving.deploy.launch import ServerLine, launch_argv
from serving.deploy.ports import LOOPBACK, Ports, choose_ports
from serving.deploy.process import ProcessRef
from serving.deploy.tritonserver import TritonServer, find_tritonserver, prepare_backends
from trtllm_kit.errors import HostError, RolloutError
from trtllm_kit.files import disk_errors

STOP_GRACE_S = 10.0
_EXIT_TIMEOUT_S = 2  # stubs end one after another, half a second each; those that are left are ended with the server
_POLL_S = 0.1
_SHM = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A started tritonserver. It may not be ready yet, and it may have died since."""

    process: ProcessRef
    ports: Ports
    log: Path
    shm_prefix: str

    @property
    def http_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.http}"

    @property
    def grpc_address(self) -> str:
        return f"{LOOPBACK}:{self.ports.grpc}"

    def stop(self, *, grace_s: float = STOP_GRACE_S) -> bool:
        """End it and clear its shared memory; True when it went within the grace time."""
        clean = self.process.terminate(grace_s=grace_s)
        remove_shared_memory(self.shm_prefix)
        return clean


def start_server(
    root: Path,
    *,
    work: Path,
    ports: Ports,
    cpu_backend: Iterable[Path] = (),
    repository: str = "model_repository",
    world_size: int = 1,
    extra: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> RunningServer:
    """Start a server in the background with a view of `root` as its working directory; all it writes goes under `work`.

    It outlives the caller (own session). HostError when there is no usable server or it cannot be executed.
    """
    server = find_tritonserver()
    log, shm_prefix = work / "tritonserver.log", f"trtkit{uuid.uuid4().hex[:10]}_prefix0_"
    line = ServerLine(
        binary=str(server.binary),
        repository=repository,
        ports=ports,
        address=LOOPBACK,
        backends=str(prepare_backends(server, work / "backends", cpu_backend=cpu_backend)),
        caches=None if server.caches is None else str(server.caches),
        shm_prefix=shm_prefix,
        gpu_metrics=server.origin != "wheel",
        exit_timeout_s=_EXIT_TIMEOUT_S,
        extra=extra,
    )
    process = _spawn(server, launch_argv(world_size, line), _view(root, work, repository), log, environment or {})
    return RunningServer(process=process, ports=ports, log=log, shm_prefix=shm_prefix)


def wait_until_loaded(server: RunningServer, *, timeout_s: float) -> None:
    """Return when /v2/health/ready answers 200, which says that models are loaded and not yet that they work.

    Raises RolloutError with the known cause or the log's telling lines when the server dies or time runs out.
    """
    deadline = time.monotonic() + timeout_s
    while not _healthy(server.ports.http):
        if not server.process.alive():
            raise rollout_error(server.log, "tritonserver ended before its models were loaded")
        if time.monotonic() > deadline:
            raise rollout_error(server.log, f"tritonserver had not loaded its models after {timeout_s:g} s")
        time.sleep(_POLL_S)


def rollout_error(log: Path, happened: str) -> RolloutError:
    """A RolloutError that carries the log's telling lines and, where the failure is known, its meaning and fix."""
    cause = server_log.known_cause(log)
    lines = "".join(f"\n    {line}" for line in server_log.telling_lines(log))
    meaning = f": {cause.meaning}" if cause else ""
    return RolloutError(
        f"{happened}{meaning}{lines}",
        expected="a server that loads every model and answers",
        fix=cause.fix if cause else "read the lines above; `trtllm-kit artifact verify` checks the files",
    )


@contextlib.contextmanager
def running_server(
    root: Path,
    *,
    cpu_backend: Iterable[Path] = (),
    repository: str = "model_repository",
    extra: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Iterator[RunningServer]:
    """A loaded server for the length of a block: free ports on loopback, own shared memory, nothing left afterwards.

    `root` is the working directory (an artifact's root) and `repository` lies under it. `environment` is added to
    the server's own.
    """
    work = Path(tempfile.mkdtemp(prefix="trtllm-kit-server-"))
    try:
        server = start_server(
            root,
            work=work,
            ports=choose_ports(),
            cpu_backend=cpu_backend,
            repository=repository,
            extra=extra,
            environment=environment,
        )
        try:
            wait_until_loaded(server, timeout_s=timeout_s)
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def remove_shared_memory(prefix: str) -> None:
    """Remove what stubs left in /dev/shm; every rank's prefix shares the part before `prefix0_`."""
    for path in _SHM.glob(f"{prefix.removesuffix('prefix0_')}*"):
        with contextlib.suppress(OSError):
            path.unlink()


def _view(root: Path, work: Path, repository: str) -> Path:
    """`root` by links, with the repository as a copy of its own.

    Triton's Python stubs write bytecode beside the models, whatever the environment says, and an artifact has to stay
    as it was built.
    """
    copied, view = Path(repository).parts[0], work / "root"
    if not (root / repository).is_dir():
        raise RolloutError(
            f"{root} has no {repository}",
            expected="a rendered model repository",
            fix="build it with `trtllm-kit build model`",
        )
    with disk_errors(view):
        view.mkdir()
        shutil.copytree(root / copied, view / copied)
        for entry in root.iterdir():
            if entry.name != copied:
                (view / entry.name).symlink_to(entry.resolve())
    return view


def _spawn(server: TritonServer, argv: list[str], root: Path, log: Path, added: Mapping[str, str]) -> ProcessRef:
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("ab")
    with output:
        try:
            process = subprocess.Popen(
                argv,
                cwd=root,
                env={**server.environment(), **added},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(
                f"cannot run {argv[0]}: {os.strerror(error.errno or 0)}",
                expected="an executable tritonserver, and mpirun where there are several ranks",
                fix="run `trtllm-kit doctor`",
            ) from error
    # The child sits unreaped in the process table until we wait for it, so its start time can be read without a race.
    process.returncode = 0  # it is meant to outlive this object; silences subprocess' warning about that
    return ProcessRef.of(process.pid)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2.0)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
