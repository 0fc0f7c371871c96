"""Fixtures that every part of the suite shares: the command itself, a tiny checkpoint, and one artifact built once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.checkpoint import Checkpoint
from builder.families import config_of
from builder.plan import BuildPlan
from builder.resolve import resolve
from trtllm_kit.spec import parse

ROOT = Path(__file__).resolve().parents[1]
COMMAND = Path(sys.executable).with_name("trtllm-kit")


@dataclass(frozen=True)
class Outcome:
    """What a person sees of one command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Kit:
    """Runs `trtllm-kit` as a process of its own, in one folder, on one store."""

    folder: Path
    store: Path

    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TRTLLM_KIT")}
        return {
            **clean,
            "TRTLLM_KIT_STORE": str(self.store),
            "PATH": f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
        }

    def run(self, *arguments: str, **extra_environment: str) -> Outcome:
        """Never a traceback, whatever happens: that is checked here for every test."""
        done = subprocess.run(
            [str(COMMAND), *arguments],
            cwd=self.folder,
            env={**self.environment(), **extra_environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, **extra_environment: str) -> Outcome:
        outcome = self.run(*arguments, **extra_environment)
        assert outcome.code == 0, outcome.err
        return outcome

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(COMMAND), *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """The trained example checkpoint; tests read it and never write there."""
    return ROOT / "examples" / "tiny-llama"


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A fresh folder and an empty store."""
    folder = tmp_path / "work"
    folder.mkdir()
    return Kit(folder=folder, store=tmp_path / "store")


@pytest.fixture
def model_copy(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the example checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture(scope="session")
def plan_for() -> Callable[..., BuildPlan]:
    """`plan_for(raw_config, build__max_batch_size=4, ...)`: what the kit itself decides for a `config.json` and a spec.

    A spec key of a group is written with two underscores. What no spec gives is made of such a plan by `replace`.
    """

    def make(raw_config: Mapping[str, Any], *, path: Path = Path("m"), **keys: Any) -> BuildPlan:
        spec = parse({"model": "m"}, {key.replace("__", "."): value for key, value in keys.items()})
        config = config_of(raw_config)
        return resolve(spec, Checkpoint(source="m", path=path, config=config, tensors={}, files={}, digest="0" * 64))

    return make


@pytest.fixture(scope="session")
def built(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A store that holds one finished artifact of the example for the cpu runtime; tests only read it."""
    folder = tmp_path_factory.mktemp("built")
    kit = Kit(folder=folder, store=folder / "store")
    kit.ok("init", "--model", str(tiny_llama))
    kit.ok("build", "model", "--sku", "cpu")
    return kit


@pytest.fixture
def running(built: Kit) -> Iterator[Callable[..., Outcome]]:
    """`deploy` with any options; whatever was started so is stopped when the test ends."""
    started: list[str] = []

    def deploy(*options: str) -> Outcome:
        outcome = built.ok("deploy", "--output", "json", *options)
        started.append(outcome.json["name"])
        return outcome

    yield deploy
    for name in started:
        built.run("deploy", "stop", name)
