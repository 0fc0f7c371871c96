"""The example checkpoint quantized once, and text that fits it: Python's own documentation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

from builder.checkpoint import Checkpoint
from builder.digests import DigestCache
from builder.evaluate import EvaluationSettings, QualityReport, evaluate
from builder.fetch import fetch
from builder.quantize import quantize
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """torch's own threads wait for each other on a busy machine: models this small then take many times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    digests = DigestCache(tmp_path_factory.mktemp("base") / "digests.json")
    return fetch(str(tiny_llama), trust_remote_code=False, digests=digests, talk=Silent())


@pytest.fixture(scope="session")
def quantized(base: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`quantized("int8_wo", "hf")`: the example in a precision that needs no calibration, made once."""
    made: dict[tuple[str, str], Path] = {}

    def make(precision: str, layout: str = "hf") -> Path:
        if (precision, layout) not in made:
            out = tmp_path_factory.mktemp(f"{precision}_{layout}")
            sizes = {"tp_size": 1, "pp_size": 1}
            quantize(base, Recipe(precision=precision), layout=layout, out=out, talk=Silent(), **sizes)
            made[precision, layout] = out
        return made[precision, layout]

    return make


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSONL of 24 documents, some 200 tokens each."""
    path = tmp_path_factory.mktemp("data") / "own.jsonl"
    texts = [text[:600] for text in topics.values() if len(text) > 600][:24]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def settings(data: Path) -> EvaluationSettings:
    return EvaluationSettings(data=(data,), bundled=False, resamples=500)


@pytest.fixture(scope="session")
def report(
    base: Checkpoint, settings: EvaluationSettings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., QualityReport]:
    """`report(folder)`: the evaluation of a checkpoint against the example, made once for each set of settings."""
    known: dict[str, QualityReport] = {}

    def run(folder: Path, **changes: Any) -> QualityReport:
        key = f"{folder} {sorted(changes.items())}"
        if key not in known:
            chosen, work = replace(settings, **changes), tmp_path_factory.mktemp("states")
            known[key] = evaluate(base, folder, settings=chosen, talk=Silent(), work=work)
        return known[key]

    return run
