"""A matrix of three SKUs, installed through the command, with what is this machine's own in the files made neutral."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(sys.executable).with_name("trtllm-kit")
MATRIX = """\
depot: s3://bucket/depot
base:
  model: {model}
matrix:
  precision: [bf16, fp8]
  sku: [cpu, l40s, h100_sxm]
exclude: ["*-fp8-cpu-*"]
limits:
  stage_minutes: {{default: 60, compile: 120}}
report:
  webhook: ${{NIGHTLY_WEBHOOK}}
"""
OPTIONS = {
    "cron": (),
    "systemd": ("--schedule", "15 3 1 * sun"),
    "kubernetes": ("--image", "registry.example/kit:1", "--namespace", "ml", "--queue", "nights", "--secret", "keys"),
    "slurm": ("--queue", "batch", "--gres", "h100_sxm=h100", "--at-once", "1"),
}


@pytest.fixture
def matrix(kit: Any, tiny_llama: Path) -> Path:
    """In a folder of the test's own."""
    path: Path = kit.folder / "nightly.yaml"
    path.write_text(MATRIX.format(model=tiny_llama))
    return path


@pytest.fixture(scope="session")
def installed(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`installed("slurm")`: the folder, written once with the target's OPTIONS; tests only read it."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "nightly.yaml").write_text(MATRIX.format(model=tiny_llama))

    def find(target: str) -> Path:
        if not (folder / target).exists():
            environment = {**os.environ, "TRTLLM_KIT_STORE": f"{folder}/store", "HF_HOME": f"{folder}/huggingface"}
            command = [str(COMMAND), "nightly", "install", "--target", target, "--out", target, *OPTIONS[target]]
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        return folder / target

    return find


@pytest.fixture(scope="session")
def neutral(installed: Callable[[str], Path], tiny_llama: Path) -> Callable[[str], dict[str, str]]:
    """The same files by name, without what differs from machine to machine."""

    def read(target: str) -> dict[str, str]:
        folder = installed(target)
        own = {
            str(COMMAND): "/opt/bin/trtllm-kit",
            str(tiny_llama): "/models/tiny-llama",
            str(folder.parent): "/home/me",
            f"User={getpass.getuser()}\n": "User=me\n",
            f"MAILTO={getpass.getuser()}\n": "MAILTO=me\n",
        }
        found = {
            path.name: path.read_text() for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."
        }
        for text, name in own.items():
            found = {key: value.replace(text, name) for key, value in found.items()}
        # Estimates, which are another module's and are compared with the tasks elsewhere.
        return {key: re.sub(r"\b\d+(?=Mi?\b)", "N", value) for key, value in found.items()}

    return read
