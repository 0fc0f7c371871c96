"""The top-level package names are ours alone, and every data file that is read at run time is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["builder", "model_repo_templates", "profiles", "serving", "trtllm_kit"]


@pytest.mark.parametrize("name", PACKAGES)
def test_nobody_else_installs_our_package_names(name: str) -> None:
    assert set(importlib.metadata.packages_distributions()[name]) == {"trtllm-kit"}


@pytest.mark.parametrize("name", ["model_repo_templates", "profiles"])
def test_data_is_found_through_the_package(name: str) -> None:
    assert any(importlib.resources.files(name).iterdir())


def test_a_wheel_carries_every_file_that_is_read_at_run_time(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build writes beside what it builds
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(source).as_posix()
        for name in PACKAGES
        for path in (source / name).rglob("*")
        if path.is_file()
    }
    assert wanted <= packed, sorted(wanted - packed)


MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for name in PACKAGES
    if name != "model_repo_templates"
    for path in (ROOT / name).rglob("*.py")
)


def test_every_module_can_be_imported_alone_and_arrows_point_down() -> None:
    """Lower floors never import higher ones. Triton's glue is left out: it runs inside the server only."""
    floors = {"profiles": 0, "builder": 1, "serving": 2}
    for module in MODULES:
        if module == "serving.cpu_backend.model":
            continue
        floor = floors.get(module.split(".")[0], 3)
        above = [name for name, level in floors.items() if level > floor]
        if module.split(".")[0] != "trtllm_kit":
            above.append("trtllm_kit.cli")
        source = ROOT / (module.replace(".", "/") + ".py")
        source = source if source.exists() else ROOT / module.replace(".", "/") / "__init__.py"
        for line in source.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]) and len(words) > 1:
                assert not any(words[1] == name or words[1].startswith(name + ".") for name in above), (module, line)
