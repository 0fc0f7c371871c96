"""A real tritonserver with a small decoupled model that speaks the engine layout: tokens by rule, faults on demand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

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
