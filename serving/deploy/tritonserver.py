"""Where this machine keeps a real tritonserver, and what must lie around it before it can load a repository.

Two places are known: NVIDIA's container (or any `tritonserver` on PATH) and the nvidia-pytriton wheel, which carries a
full server for machines without one. The wheel keeps its Python stubs apart from the backend, so a backend folder has
to be put together first.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import serving
from trtllm_kit.errors import HostError
from trtllm_kit.files import disk_errors

INSTALL_FIX = "pip install 'trtllm-kit[triton]'"
WHEEL_SERVERS = {"0.7.0": "2.51.0"}
"""nvidia-pytriton release -> the tritonserver inside it (its own /v2 answer)."""
CONTAINER_ROOT = Path("/opt/tritonserver")
_WHEEL_GLIBC = (2, 35)
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, kw_only=True)
class TritonServer:
    """An installed server. `version` is None when only the running server can tell."""

    binary: Path
    origin: str  # "container" or "wheel"
    version: str | None
    python_backend: Path  # folder with libtriton_python.so
    stub: Path
    backends: Path | None  # ready-made backend folder (container); None: it must be prepared
    caches: Path | None
    library_folders: tuple[Path, ...]

    def environment(self) -> dict[str, str]:
        """The caller's environment, with the libraries and the Python that the server and its stubs load."""
        libraries = [*map(str, self.library_folders), os.environ.get("LD_LIBRARY_PATH", "")]
        # The stub embeds libpython and finds site-packages through the first python3 on PATH.
        path = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        # The cpu backend imports the kit, which need not be installed where it runs from a checkout.
        kit = [str(Path(serving.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, kit)),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            "PATH": os.pathsep.join(filter(None, path)),
        }


def find_tritonserver() -> TritonServer:
    """The server to use: NVIDIA's own where it is installed, else the wheel's.

    Raises HostError when there is none, or when this Python, numpy or glibc cannot run it.
    """
    return _installed_server() or _wheel_server()


def prepare_backends(server: TritonServer, folder: Path, *, cpu_backend: Iterable[Path] = ()) -> Path:
    """A backend folder for `server` under `folder`, with `cpu_backend`'s files as the backend named `tensorrtllm`.

    Returns what to give as --backend-directory. The container's own folder is used as it is when nothing is added.
    """
    added = list(cpu_backend)
    if server.backends is not None and not added:
        return server.backends
    python = folder / "python"
    with disk_errors(folder):
        shutil.copytree(server.python_backend, python, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(server.stub, python / _STUB)
        (python / _STUB).chmod(0o755)
        if added:
            (folder / "tensorrtllm").mkdir(exist_ok=True)
        for file in added:
            shutil.copy2(file, folder / "tensorrtllm" / file.name)
    return folder


def cpu_backend_files() -> tuple[Path, ...]:
    """The file of the python-based backend that bears the name `tensorrtllm`; it imports the rest from the kit."""
    model = Path(serving.__file__).parent / "cpu_backend" / "model.py"
    if not model.is_file():
        raise HostError(
            "the backend of the cpu runtime is not installed",
            expected="serving/cpu_backend/model.py inside the trtllm-kit installation",
            fix="reinstall trtllm-kit",
        )
    return (model,)


def _installed_server() -> TritonServer | None:
    found = shutil.which("tritonserver") or shutil.which("tritonserver", path=str(CONTAINER_ROOT / "bin"))
    if found is None:
        return None
    binary = Path(found).resolve()
    root = binary.parent.parent
    python_backend = root / "backends" / "python"
    return TritonServer(
        binary=binary,
        origin="container",
        version=_read_version(root / "TRITON_VERSION"),
        python_backend=python_backend,
        stub=python_backend / _STUB,
        backends=root / "backends",
        caches=root / "caches",
        library_folders=(root / "lib",),
    )


def _read_version(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _wheel_server() -> TritonServer:
    root, release = _wheel_root()
    _refuse_glibc()
    _refuse_numpy()
    stub = root / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / _STUB
    if not stub.is_file():
        shipped = sorted(path.name for path in (root / "python_backend_stubs").glob("3.*"))
        raise HostError(
            f"the Triton wheel has no stub for Python {sys.version_info.major}.{sys.version_info.minor}",
            expected=f"Python {', '.join(shipped) or '3.10 to 3.12'}",
            fix="make the virtual environment with Python 3.10, 3.11 or 3.12",
        )
    libraries = (root.parent.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib"))
    return TritonServer(
        binary=root / "bin" / "tritonserver",
        origin="wheel",
        version=WHEEL_SERVERS.get(release),
        python_backend=root / "backends" / "python",
        stub=stub,
        backends=None,
        caches=root / "caches",
        library_folders=libraries,
    )


def _wheel_root() -> tuple[Path, str]:
    try:
        release = version("nvidia-pytriton")
        spec = importlib.util.find_spec("pytriton")
    except PackageNotFoundError:
        spec = None
    folders = [Path(folder) / "tritonserver" for folder in (spec.submodule_search_locations or ())] if spec else []
    roots = [folder for folder in folders if (folder / "bin" / "tritonserver").is_file()]
    if not roots:
        raise HostError(
            "no tritonserver on this machine",
            expected="NVIDIA's Triton container, a `tritonserver` on PATH, or the nvidia-pytriton wheel",
            fix=INSTALL_FIX,
        )
    return roots[0], release


def _refuse_glibc() -> None:
    name, found = platform.libc_ver()
    parts = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if name != "glibc" or parts < _WHEEL_GLIBC:
        raise HostError(
            f"the Triton wheel does not run on {name or 'this C library'} {found}".rstrip(),
            expected=f"glibc {'.'.join(map(str, _WHEEL_GLIBC))} or newer (Debian 12, Ubuntu 22.04)",
            fix="deploy with --to docker, or on a newer system",
        )


def _refuse_numpy() -> None:
    try:
        found = version("numpy")
    except PackageNotFoundError:
        found = "0"
    if found.partition(".")[0] != "1":
        raise HostError(
            f"numpy {found} is installed" if found != "0" else "numpy is not installed",
            expected="numpy 1.x: the wheel's Python stub dies on the first string tensor with numpy 2",
            fix="pip install 'numpy<2'",
        )
