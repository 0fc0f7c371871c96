"""Matrices for the nightly's tests, and what a night leaves behind."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder import manifest as manifests
from builder.depot import Depot
from builder.depot.records import CellRecord
from builder.store import Store
from trtllm_kit.console import Silent


@dataclass(frozen=True)
class Matrix:
    """A folder with a nightly.yaml, its store and its depot."""

    kit: Any

    def write(self, **tree: Any) -> None:
        """Cells of the example that need neither GPU nor server, unless said otherwise: built, and not measured."""
        defaults = {"limits": {"stage_minutes": {"default": 5}}, "promotion": {"minutes": 0.5}}
        (self.kit.folder / "nightly.yaml").write_text(yaml.safe_dump(defaults | tree), encoding="utf-8")

    @property
    def depot(self) -> Depot:
        return Depot.open(str(self.kit.store / "depot"))

    def refs(self) -> dict[str, CellRecord]:
        return {str(cell.identifier): version.record for cell, version in self.depot.read_all().items()}

    def digests(self) -> dict[str, tuple[str | None, str | None, str | None]]:
        """(candidate, current, previous) of every cell."""
        return {
            name: tuple(entry and entry.digest for entry in (row.candidate, row.current, row.previous))
            for name, row in self.refs().items()
        }

    def results(self, night: str) -> dict[str, Any]:
        """What the depot says of a night's cells."""
        texts = self.depot.read_texts(self.depot.names(f"nights/{night}/cells"))
        rows = [json.loads(text) for text in texts.values()]
        return {row["identifier"]: row for row in rows}

    def plan(self, *options: str) -> dict[str, Any]:
        """Cells of `nightly plan`, by identifier."""
        found = self.kit.ok("nightly", "plan", "--output", "json", *options)
        return {row["identifier"]: row for row in found.json["cells"]}

    def intact(self) -> None:
        """Every ref points at a complete upload whose bytes are what its manifest says."""
        for row in self.refs().values():
            for entry in row.entries().values():
                with tempfile.TemporaryDirectory() as folder:
                    manifests.verify(self.depot.pull(entry.digest, entry.upload, Store(Path(folder)), talk=Silent()))

    def run(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Exit code of a night, and its results by identifier."""
        outcome = self.kit.run("nightly", "run", "--output", "json", *options)
        return outcome.code, {row["identifier"]: row for row in outcome.json["results"]}


@pytest.fixture
def matrix(kit: Any) -> Matrix:
    """In a fresh folder, on an empty store."""
    return Matrix(kit)


@pytest.fixture
def make_matrix(kit: Any, tmp_path: Path) -> Callable[[str], Matrix]:
    """Further ones by name, each with a store of its own."""

    def make(name: str) -> Matrix:
        folder = tmp_path / name
        (folder / "work").mkdir(parents=True)
        return Matrix(replace(kit, folder=folder / "work", store=folder / "store"))

    return make


@pytest.fixture
def unserved(tiny_llama: Path) -> dict[str, Any]:
    """A base whose builds take a second and are not measured: there is no such GPU here."""
    return {"model": str(tiny_llama), "target": {"sku": "h100_sxm"}, "runtime": "pytorch", "precision": "bf16"}
