"""A run that is killed goes on where it stopped, to the same bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.checkpoint import Checkpoint
from builder.quantize import quantize
from builder.quantize.calibration.samples import CalibrationSet
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent

Make = Callable[..., Any]

PROGRAM = """
import os, signal, sys
from pathlib import Path
import numpy as np
from builder.digests import DigestCache
from builder.fetch import fetch
from builder.quantize import quantize
from builder.quantize.calibration.samples import CalibrationSet
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent

class Killer(Silent):
    def progress(self, done, total, what):
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

model, recipe, layout = sys.argv[1], eval(sys.argv[2]), sys.argv[3]
checkpoint = fetch(model, trust_remote_code=False, digests=DigestCache(Path("d.json")), talk=Silent())
Path("out").mkdir()
ids = np.random.default_rng(0).integers(0, 50, (5, 24))
quantize(checkpoint, recipe, layout=layout, tp_size=1, pp_size=1, out=Path("out"), work=Path("work"), talk=Killer(),
         calibration=CalibrationSet(ids))
"""


class Listener(Silent):
    """Remembers which layers were begun."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def progress(self, done: float, total: float, what: str) -> None:
        self.steps.append(done)


def run(checkpoint: Checkpoint, recipe: Recipe, layout: str, out: Path, work: Path) -> list[float]:
    out.mkdir(exist_ok=True)
    ids, talk = np.random.default_rng(0).integers(0, 50, (5, 24)), Listener()
    rest: Any = {"layout": layout, "tp_size": 1, "pp_size": 1, "out": out, "work": work}
    quantize(checkpoint, recipe, talk=talk, calibration=CalibrationSet(ids), **rest)
    return talk.steps


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("recipe", "layout", "power_cut"),
    [
        (Recipe(precision="fp8", kv_cache="int8"), "trtllm", False),
        (Recipe(precision="fp8", kv_cache="int8"), "trtllm", True),
        (Recipe(precision="int8_sq", quantized_predecessors=True), "hf", False),
        (Recipe(precision="int8_sq", quantized_predecessors=True), "hf", True),
        (Recipe(precision="int8_wo"), "hf", True),
    ],
)
def test_a_killed_run_is_resumed_to_the_same_bytes(
    recipe: Recipe, layout: str, power_cut: bool, make_model: Make, tmp_path: Path
) -> None:
    model = make_model(num_hidden_layers=4, head_dim=16)
    checkpoint = model.fetch()
    run(checkpoint, recipe, layout, tmp_path / "whole", tmp_path / "other")
    (tmp_path / "run").mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model.path), repr(recipe), layout], cwd=tmp_path / "run"
    )
    assert killed.returncode == -9
    assert not list((tmp_path / "run" / "out").iterdir())
    journal = tmp_path / "run" / "work" / "journal.json"
    assert json.loads(journal.read_text())["layer"] == 2
    if power_cut:
        journal.write_text(json.dumps({**json.loads(journal.read_text()), "boot": "another"}))
        for file in journal.parent.glob("hidden*"):
            file.write_bytes(bytes(file.stat().st_size))
    steps = run(checkpoint, recipe, layout, tmp_path / "run" / "out", journal.parent)
    assert digests(tmp_path / "run" / "out") == digests(tmp_path / "whole")
    assert not journal.parent.exists()
    begins_anew = power_cut and recipe.needs_calibration
    assert steps[1] == (1 if begins_anew else 3)


def test_what_another_run_left_is_not_used(make_model: Make, tmp_path: Path) -> None:
    model = make_model(num_hidden_layers=4)
    (tmp_path / "run").mkdir()
    arguments = [str(model.path), repr(Recipe(precision="int8_wo")), "hf"]
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], cwd=tmp_path / "run")
    assert (tmp_path / "run" / "work" / "journal.json").is_file()
    model.tensors["model.norm.weight"] += 1
    model.save()
    checkpoint, recipe = model.fetch(), Recipe(precision="int8_wo")
    assert run(checkpoint, recipe, "hf", tmp_path / "run" / "out", tmp_path / "run" / "work")[1] == 1
    run(checkpoint, recipe, "hf", tmp_path / "whole", tmp_path / "other")
    assert digests(tmp_path / "run" / "out") == digests(tmp_path / "whole")
