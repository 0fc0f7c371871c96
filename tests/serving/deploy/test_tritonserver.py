from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from serving.deploy.server import running_server
from serving.deploy.tritonserver import cpu_backend_files, find_tritonserver, prepare_backends
from trtllm_kit.errors import RolloutError

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
from serving.deploy.tritonserver import find_tritonserver
from trtllm_kit.errors import HostError
try:
    print(find_tritonserver())
except HostError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def _find(*paths: Path | str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])), "PATH": "/usr/bin:/bin"}
    argv = [sys.executable, *options, "-c", PROGRAM]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, timeout=60)


def _distribution(folder: Path, name: str, version: str) -> Path:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def _wheel(folder: Path, *stubs: str) -> Path:
    """An installed wheel as far as its files go."""
    triton = _distribution(folder, "nvidia-pytriton", "0.7.0") / "pytriton" / "tritonserver"
    (triton / "bin").mkdir(parents=True)
    (triton / "bin" / "tritonserver").write_text("")
    (triton.parent / "__init__.py").write_text("")
    for stub in stubs:
        (triton / "python_backend_stubs" / stub).mkdir(parents=True)
        (triton / "python_backend_stubs" / stub / "triton_python_backend_stub").write_text("")
    return folder


def test_without_a_wheel_it_says_what_to_install() -> None:
    done = _find(options=("-S",))
    assert (done.returncode, "pip install 'trtllm-kit[triton]'" in done.stdout) == (4, True), done.stderr


def test_numpy_2_is_refused(tmp_path: Path) -> None:
    version = f"3.{sys.version_info.minor}"
    done = _find(_wheel(tmp_path, version), _distribution(tmp_path / "n", "numpy", "2.1.0"), options=("-S",))
    assert done.returncode == 4
    assert "numpy 2.1.0 is installed" in done.stdout and "numpy<2" in done.stdout


def test_a_python_without_a_stub_is_refused(tmp_path: Path) -> None:
    done = _find(_wheel(tmp_path, "3.8"), _distribution(tmp_path / "n", "numpy", "1.26.4"), options=("-S",))
    assert done.returncode == 4
    assert f"no stub for Python 3.{sys.version_info.minor}" in done.stdout and "Python 3.8" in done.stdout


def test_a_server_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "opt"
    (root / "bin").mkdir(parents=True)
    binary = root / "bin" / "tritonserver"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    (root / "TRITON_VERSION").write_text("2.70.0\n")
    monkeypatch.setenv("PATH", f"{binary.parent}:{os.environ['PATH']}")
    server = find_tritonserver()
    assert (server.binary, server.origin, server.version) == (binary, "container", "2.70.0")
    assert prepare_backends(server, tmp_path / "unused") == root / "backends"
    assert not (tmp_path / "unused").exists()


@pytest.mark.usefixtures("triton_installed")
def test_the_wheel_gets_its_stub_next_to_the_backend(tmp_path: Path) -> None:
    server = find_tritonserver()
    folder = prepare_backends(server, tmp_path / "backends", cpu_backend=cpu_backend_files())
    assert {path.name for path in (folder / "python").iterdir()} >= {
        "libtriton_python.so",
        "triton_python_backend_stub",
    }
    assert os.access(folder / "python" / "triton_python_backend_stub", os.X_OK)
    assert [path.name for path in (folder / "tensorrtllm").iterdir()] == ["model.py"]
    environment = server.environment()
    assert environment["PATH"].startswith(str(Path(sys.executable).parent))
    assert sysconfig.get_config_var("LIBDIR") in environment["LD_LIBRARY_PATH"].split(os.pathsep)


@pytest.mark.usefixtures("triton_installed")
def test_a_running_server_leaves_nothing_behind(artifact: Path, tmp_path: Path) -> None:
    with running_server(artifact) as server:
        work = server.log.parent
        prefix = server.shm_prefix.removesuffix("prefix0_")
        assert list(Path("/dev/shm").glob(f"{prefix}*"))
    assert not server.process.alive()
    assert not work.exists()
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))


@pytest.mark.usefixtures("triton_installed")
def test_an_empty_repository_folder_that_is_missing_is_reported(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(RolloutError, match="model_repository"), running_server(tmp_path / "root"):
        pass
