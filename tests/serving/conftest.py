"""A real tritonserver with a small decoupled model that speaks the engine layout: tokens by rule, faults on demand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serving.client.request import Endpoint
from serving.deploy.server import RunningServer, running_server
from serving.deploy.tritonserver import find_tritonserver
from trtllm_kit.errors import HostError

FAKE = Path(__file__).parent / "fake_triton"


def write_artifact(root: Path, *, mode: str = "") -> Path:
    """A folder laid out like an artifact, with the rule-driven models in its repository."""
    repository = root / "model_repository"
    for name in ("ensemble", "tensorrt_llm", "preprocessing", "postprocessing"):
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copy(FAKE / "model.py", version / "model.py")
        config = (FAKE / f"{name}.pbtxt").read_text(encoding="utf-8")
        (repository / name / "config.pbtxt").write_text(config.replace("@MODE@", mode), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def triton_installed() -> None:
    try:
        find_tritonserver()
    except HostError as error:
        pytest.skip(f"no tritonserver here: {error.happened}")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "artifact")


@pytest.fixture
def make_artifact(tmp_path: Path):
    def make(name: str = "artifact", *, mode: str = "") -> Path:
        return write_artifact(tmp_path / name, mode=mode)

    return make


@pytest.fixture(scope="session")
def fake_server(triton_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = write_artifact(tmp_path_factory.mktemp("fake") / "artifact")
    with running_server(root) as server:
        yield server


@pytest.fixture(scope="session")
def endpoint(fake_server: RunningServer) -> Endpoint:
    return Endpoint(http=f"127.0.0.1:{fake_server.ports.http}", grpc=fake_server.grpc_address)


@dataclass(frozen=True)
class Mock:
    """A `trtllm-kit mock-server` in a process of its own."""

    process: subprocess.Popen[str]
    http: str
    grpc: str | None

    def endpoint(self, transport: str) -> Endpoint:
        return Endpoint(http=self.http, grpc=self.grpc or self.http, transport=transport)

    def get(self, path: str, body: dict[str, Any] | None = None) -> str:
        content = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://{self.http}{path}", content, timeout=10) as answer:
            return answer.read().decode()

    @property
    def totals(self) -> dict[str, Any]:
        return json.loads(self.get("/mock/totals"))

    @property
    def ledger(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.get("/mock/ledger").splitlines()]


@pytest.fixture(scope="module")
def start_mock() -> Iterator[Callable[..., Mock]]:
    """`start_mock("--itl-ms", "1", ...)`: the same options give the same server for the whole module."""
    running: dict[tuple[str, ...], Mock] = {}

    def start(*options: str) -> Mock:
        if options not in running:
            command = [str(Path(sys.executable).with_name("trtllm-kit")), "mock-server"]
            process = subprocess.Popen(
                [*command, "--http-port", "0", "--grpc-port", "0", *options], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            running[options] = Mock(process, **json.loads(process.stdout.readline()))
        return running[options]

    yield start
    for mock in running.values():
        mock.process.terminate()
        mock.process.communicate(timeout=20)
