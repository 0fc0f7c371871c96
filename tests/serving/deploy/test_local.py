from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from serving.client.errors import RequestError
from serving.client.request import Request
from serving.client.transports import complete
from serving.deploy import manage, state
from serving.deploy.local import deploy
from serving.deploy.process import ProcessRef
from serving.deploy.readiness import endpoint_of
from trtllm_kit.console import Silent
from trtllm_kit.errors import HostError, IncompatibleError, RolloutError, UsageError

pytestmark = pytest.mark.usefixtures("triton_installed")


def _ask(deployment: state.Deployment) -> str:
    return complete(endpoint_of(deployment), Request(prompt="abc", max_tokens=3)).text


def test_two_deployments_side_by_side_and_a_clean_end(artifact: Path, manifest, options, store: Path) -> None:
    first = deploy(artifact, manifest, options(), Silent()).deployment
    second = deploy(artifact, manifest, options(), Silent()).deployment
    assert first is not None and second is not None
    assert (first.name, second.name) == ("tiny-bf16-cpu-tp1pp1-cpu", "tiny-bf16-cpu-tp1pp1-cpu-2")
    assert {port for _, port in first.ports.rows()}.isdisjoint(port for _, port in second.ports.rows())
    assert _ask(first) == _ask(second) == "abc"
    found = manage.status(store)
    assert [(status.deployment.name, status.state) for status in found] == [
        (first.name, "running"),
        (second.name, "running"),
    ]
    assert all(status.first_token_s is not None for status in found)

    assert manage.stop(store, first.name) is True
    assert [status.deployment.name for status in manage.status(store)] == [second.name]
    assert _ask(second) == "abc"
    with pytest.raises(RequestError):
        _ask(first)
    assert not list(Path("/dev/shm").glob(f"{(first.shm_prefix or 'x').removesuffix('prefix0_')}*"))
    assert (artifact / "model_repository").is_dir()


def test_it_outlives_the_process_that_started_it(artifact: Path, manifest, store: Path) -> None:
    code = (
        "import json,sys;from pathlib import Path;from serving.deploy.local import deploy;"
        "from serving.deploy.options import DeployOptions;from trtllm_kit.console import Silent;"
        "deploy(Path(sys.argv[1]),json.loads(sys.argv[2]),"
        "DeployOptions(store=Path(sys.argv[3]),cpu_backend=()),Silent())"
    )
    import json

    root = str(Path(__file__).resolve().parents[3])
    argv = [sys.executable, "-c", code, str(artifact), json.dumps(manifest), str(store)]
    subprocess.run(argv, check=True, env={**os.environ, "PYTHONPATH": root}, timeout=60)
    (status,) = manage.status(store)
    assert status.state == "running"
    assert _ask(status.deployment) == "abc"
    assert any("Started HTTPService" in line for line in manage.logs(store, status.deployment.name))


def test_a_killed_server_is_dead_and_said_to_be(artifact: Path, manifest, options, store: Path) -> None:
    deployment = deploy(artifact, manifest, options(), Silent()).deployment
    assert deployment is not None and deployment.process is not None
    os.kill(deployment.process.pid, signal.SIGKILL)
    _until(lambda: not deployment.process.alive())
    # Somebody else answers 200 on the same port: that does not bring the deployment back.
    squatter = _listen(deployment.ports.http)
    thread = threading.Thread(target=_say_ok, args=(squatter,), daemon=True)
    thread.start()
    (status,) = manage.status(store)
    squatter.close()
    assert (status.state, status.first_token_s) == ("dead", None)
    assert manage.stop(store, deployment.name) is True
    assert manage.status(store) == ()


def test_stubs_that_outlive_a_killed_server_are_ended_with_it(artifact: Path, manifest, options, store: Path) -> None:
    deployment = deploy(artifact, manifest, options(), Silent()).deployment
    assert deployment is not None and deployment.process is not None
    stubs = _session_of(deployment.process.pid)
    assert len(stubs) == 3
    for stub in stubs:
        os.kill(stub.pid, signal.SIGSTOP)  # or it might notice by itself that its server is gone
    os.kill(deployment.process.pid, signal.SIGKILL)
    _until(lambda: not deployment.process.alive())
    manage.stop(store, deployment.name)
    _until(lambda: not any(stub.alive() for stub in stubs))


def test_a_stopped_process_is_unready_and_can_be_ended(artifact: Path, manifest, options, store: Path) -> None:
    deployment = deploy(artifact, manifest, options(), Silent()).deployment
    assert deployment is not None and deployment.process is not None
    os.kill(deployment.process.pid, signal.SIGSTOP)
    (status,) = manage.status(store, probe_timeout_s=0.5)
    assert status.state == "unready"
    os.kill(deployment.process.pid, signal.SIGCONT)
    (status,) = manage.status(store)
    assert status.state == "running"


def test_models_that_load_and_never_answer_are_rolled_back(make_artifact, manifest, options, store: Path) -> None:
    with pytest.raises(RolloutError, match="no token came") as caught:
        deploy(make_artifact(mode="mute"), manifest, options(timeout_s=4.0), Silent())
    assert caught.value.exit_code == 11
    assert manage.status(store) == ()
    assert not list((store / "deployments").iterdir())


def test_models_that_do_not_load_are_rolled_back_with_the_cause(make_artifact, manifest, options, store: Path) -> None:
    with pytest.raises(RolloutError, match=r"MPI ranks is not tp \* pp") as caught:
        deploy(make_artifact(mode="broken"), manifest, options(), Silent())
    assert "mpiSize == tp * pp was expected" in str(caught.value)
    assert "one rank per GPU" in caught.value.fix
    assert manage.status(store) == ()


def test_an_unfilled_variable_is_named(artifact: Path, manifest, options, store: Path) -> None:
    config = artifact / "model_repository" / "tensorrt_llm" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 8", "max_batch_size: ${triton_max_batch_size}"))
    with pytest.raises(RolloutError, match=r"unfilled \$\{...\} variable"):
        deploy(artifact, manifest, options(), Silent())
    assert manage.status(store) == ()


@pytest.mark.parametrize("service", ["http", "grpc", "metrics"])
def test_a_port_in_use_is_named_before_anything_starts(
    artifact: Path, manifest, options, store: Path, service: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"the {service} port {port} is in use"):
            deploy(artifact, manifest, options(**{f"{service}_port": port}), Silent())
    assert not (store / "deployments").exists()


def test_given_ports_are_used(artifact: Path, manifest, options) -> None:
    from serving.deploy.ports import choose_ports

    ports = choose_ports()
    given = options(http_port=ports.http, grpc_port=ports.grpc, metrics_port=ports.metrics)
    outcome = deploy(artifact, manifest, given, Silent())
    assert outcome.deployment is not None and outcome.deployment.ports == ports


def test_a_name_can_be_taken_only_once(artifact: Path, manifest, options, store: Path) -> None:
    deploy(artifact, manifest, options(name="mine"), Silent())
    with pytest.raises(UsageError, match="deploy stop mine"):
        deploy(artifact, manifest, options(name="mine"), Silent())
    (status,) = manage.status(store)
    assert status.state == "running"


@pytest.mark.parametrize("name", ["../up", "Big", "", "a b", "-x"])
def test_names_that_are_none(artifact: Path, manifest, options, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name"):
        deploy(artifact, manifest, options(name=name), Silent())


def test_an_engine_is_refused_by_a_server_without_its_backend(
    artifact: Path, engine_manifest, options, store: Path
) -> None:
    with pytest.raises(IncompatibleError, match="built for tensorrt") as caught:
        deploy(artifact, engine_manifest, options(), Silent())
    assert caught.value.exit_code == 5 and "--to docker" in str(caught.value)
    assert not (store / "deployments").exists()


def test_a_reused_pid_is_neither_running_nor_killed(artifact: Path, manifest, options, store: Path) -> None:
    deployment = deploy(artifact, manifest, options(), Silent()).deployment
    assert deployment is not None and deployment.process is not None
    server = deployment.process
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        stale = replace(deployment, process=replace(server, pid=bystander.pid))
        state.write(store / "deployments" / deployment.name, stale)
        (status,) = manage.status(store)
        assert status.state == "dead"
        manage.stop(store, deployment.name)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        server.terminate(grace_s=10)


def test_unknown_names_are_answered_with_the_known_ones(store: Path) -> None:
    with pytest.raises(UsageError, match="there is none"):
        manage.stop(store, "nothing")


def test_a_damaged_record_is_no_traceback(store: Path) -> None:
    folder = store / "deployments" / "broken"
    folder.mkdir(parents=True)
    (folder / "deployment.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        manage.status(store)
    (folder / "deployment.json").unlink()


def test_a_deployment_that_is_just_starting(artifact: Path, manifest, store: Path) -> None:
    name, folder = state.claim(store, manifest["identifier"], None)
    from serving.deploy.ports import choose_ports

    claimed = state.Deployment(
        name=name,
        target="local",
        identifier=manifest["identifier"],
        digest=manifest["digest"],
        artifact=str(artifact),
        runtime="cpu",
        transport="engine-grpc",
        ports=choose_ports(),
        deployer=ProcessRef.current(),
        started_unix_s=0.0,
    )
    state.write(folder, claimed)
    assert [status.state for status in manage.status(store)] == ["starting"]
    with pytest.raises(HostError, match="no log yet"):
        list(manage.logs(store, name))
    crashed = replace(claimed, deployer=replace(claimed.deployer, started_ticks=1))
    state.write(folder, crashed)
    assert [status.state for status in manage.status(store)] == ["dead"]


def test_a_name_whose_owner_died_at_once_is_free_again(store: Path) -> None:
    _, folder = state.claim(store, "same", "mine")
    with pytest.raises(UsageError):
        state.claim(store, "same", "mine")
    os.utime(folder, (0, 0))
    assert state.claim(store, "same", "mine") == ("mine", folder)


def test_many_at_once_get_names_of_their_own(store: Path) -> None:
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(state.claim(store, "same", None)[0])) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 12


def _session_of(leader: int) -> list[ProcessRef]:
    others = [int(path.name) for path in Path("/proc").glob("[0-9]*") if int(path.name) != leader]
    found = []
    for pid in others:
        with contextlib.suppress(ProcessLookupError):
            found += [ProcessRef.of(pid)] if os.getsid(pid) == leader else []
    return found


def _until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _listen(port: int) -> socket.socket:
    deadline = time.monotonic() + 20
    while True:  # the killed server's stubs hold its sockets until they notice
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _say_ok(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
