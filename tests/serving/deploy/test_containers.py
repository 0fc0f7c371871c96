from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from serving.deploy import manage
from serving.deploy.launch import ServerLine, launch_argv
from serving.deploy.targets import TARGETS
from trtllm_kit.console import Silent
from trtllm_kit.errors import IncompatibleError, RolloutError, SpecError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "env"):
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture
def stand_in_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `docker` that answers, runs nothing and writes down what it was asked; it is no docker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "docker"
    script.write_text(
        '#!/bin/sh\necho "$@" >> "$(dirname "$0")/asked"\n'
        'case "$1" in\n'
        "  info) echo 28.0;;\n"
        '  run|compose) [ -e "$(dirname "$0")/refuse" ] && { echo "no such image" >&2; exit 125; }; exit 0;;\n'
        "  inspect) echo false;;\n"
        '  logs) echo "mpiSize does not match";;\n'
        "esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.usefixtures("without_docker")
@pytest.mark.parametrize("target", ["docker", "compose"])
def test_where_docker_does_not_run_the_files_are_written_and_nothing_is_started(
    artifact: Path, engine_manifest, options, store: Path, tmp_path: Path, target: str
) -> None:
    outcome = TARGETS[target](artifact, engine_manifest, options(out=tmp_path / "out"), Silent())
    assert outcome.started is False
    assert "nothing was started: there is no docker command" in outcome.note and outcome.command in outcome.note
    assert [path.name for path in outcome.files] == ["compose.yaml", "docker_run.sh", "launch.sh"]
    assert manage.status(store) == ()
    for path in outcome.files:
        text = path.read_text().replace(str(artifact), "/store/artifact").replace(str(tmp_path / "out"), "/store/out")
        assert text == (GOLDEN / path.name).read_text(), f"{path.name} changed"


@pytest.mark.usefixtures("without_docker")
def test_writing_twice_gives_the_same_bytes(artifact: Path, engine_manifest, options) -> None:
    first = TARGETS["compose"](artifact, engine_manifest, options(), Silent())
    before = [path.read_bytes() for path in first.files]
    second = TARGETS["compose"](artifact, engine_manifest, options(), Silent())
    assert (second.files, [path.read_bytes() for path in second.files]) == (first.files, before)


@pytest.mark.usefixtures("without_docker")
def test_compose_publishes_on_loopback_and_asks_for_the_gpus(artifact: Path, engine_manifest, options) -> None:
    outcome = TARGETS["compose"](artifact, engine_manifest, options(http_port=9000, gpus=("2", "3")), Silent())
    (service,) = yaml.safe_load(outcome.files[0].read_text())["services"].values()
    assert service["ports"] == ["127.0.0.1:9000:8000", "127.0.0.1:8001:8001", "127.0.0.1:8002:8002"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["2", "3"]
    assert all(volume["read_only"] for volume in service["volumes"])


@pytest.mark.usefixtures("without_docker")
def test_scripts_are_valid_shell_even_with_odd_paths(make_artifact, engine_manifest, options, tmp_path: Path) -> None:
    odd = make_artifact("it's an $artifact")
    outcome = TARGETS["docker"](odd, engine_manifest, options(out=tmp_path / "o u't"), Silent())
    for path in outcome.files:
        if path.suffix == ".sh":
            subprocess.run(["/bin/sh", "-n", str(path)], check=True)


@pytest.mark.usefixtures("without_docker")
@pytest.mark.parametrize("target", ["docker", "compose"])
def test_a_cpu_build_has_no_image(artifact: Path, manifest, options, tmp_path: Path, target: str) -> None:
    with pytest.raises(IncompatibleError, match="--to local"):
        TARGETS[target](artifact, manifest, options(image="some/image:1", out=tmp_path / "out"), Silent())
    assert not (tmp_path / "out").exists()


def test_without_an_image_it_asks_for_one(artifact: Path, engine_manifest, options) -> None:
    del engine_manifest["versions"]["triton_image"]
    with pytest.raises(SpecError, match="names no container image"):
        TARGETS["docker"](artifact, engine_manifest, options(), Silent())


@pytest.mark.parametrize(("target", "end"), [("docker", "rm --force"), ("compose", "down")])
def test_a_container_that_ends_is_rolled_back_with_its_log(
    artifact: Path, engine_manifest, options, store: Path, stand_in_docker: Path, target: str, end: str
) -> None:
    free = {"http_port": 18431, "grpc_port": 18432, "metrics_port": 18433}
    with pytest.raises(RolloutError, match="mpiSize does not match"):
        TARGETS[target](artifact, engine_manifest, options(**free), Silent())
    assert end in (stand_in_docker / "asked").read_text()
    assert manage.status(store) == ()


def test_an_image_that_cannot_be_started_is_reported(
    artifact: Path, engine_manifest, options, store: Path, stand_in_docker: Path
) -> None:
    (stand_in_docker / "refuse").touch()
    with pytest.raises(RolloutError, match="no such image"):
        TARGETS["docker"](artifact, engine_manifest, options(http_port=18431), Silent())
    assert manage.status(store) == ()


def test_one_rank_needs_no_mpirun() -> None:
    assert launch_argv(1, ServerLine()) == ServerLine().argv()
    assert ServerLine().argv()[0] == "tritonserver"


@pytest.mark.parametrize("world_size", [2, 8])
def test_every_rank_has_its_own_shared_memory_and_only_the_first_serves(world_size: int) -> None:
    argv = launch_argv(world_size, ServerLine(shm_prefix="abc_prefix0_"))
    assert argv[0] == "mpirun"
    ranks = " ".join(argv[3:]).split(" : ")
    assert len(ranks) == world_size
    for rank, line in enumerate(ranks):
        assert line.startswith("-n 1 tritonserver ")
        assert f"shm-region-prefix-name=abc_prefix{rank}_" in line
        assert ("--model-control-mode=explicit --load-model=tensorrt_llm" in line) is (rank > 0)
        assert "--http-port=8000" in line
