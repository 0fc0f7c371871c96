"""One side of a comparison, from whatever holds its figures: a results folder, its report.json, or AIPerf's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.load.records import RECORDS, Record, read_records
from serving.validate.aiperf import EXPORT, level_of
from trtllm_kit.errors import SpecError
from trtllm_kit.files import read_json

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A level's JSON (serving.validate.levels.Level) and the folder of its run, where there is one."""

    name: str
    level: Mapping[str, Any]
    folder: Path | None

    def records(self) -> Iterator[Record] | None:
        """All requests of the run; None where only figures are left."""
        if self.folder is None or not (self.folder / RECORDS).is_file():
            return None
        return read_records(self.folder)


@dataclass(frozen=True, kw_only=True)
class Side:
    """All levels of one side."""

    name: str
    points: tuple[Point, ...]


def read_side(path: Path) -> Side:
    """SpecError when `path` holds no load test."""
    if path.is_dir():
        file = next((path / name for name in (REPORT, EXPORT) if (path / name).is_file()), path / REPORT)
    else:
        file = path
    tree = read_json(file, "the results")
    if isinstance(tree, Mapping) and "checks" in tree:
        return side_of(_levels(tree), file.parent, name=str(path))
    level = level_of(tree) if isinstance(tree, Mapping) else None
    if level is None:
        raise SpecError(
            f"{file} holds no load test",
            expected=f"a results folder of `trtllm-kit validate`, its {REPORT}, or AIPerf's {EXPORT}",
            fix="give one of these",
        )
    return Side(name=str(path), points=(Point(name=level["name"], level=level, folder=None),))


def side_of(levels: Sequence[Mapping[str, Any]], folder: Path, *, name: str) -> Side:
    """From levels' JSON and the results folder that their records are in. Of equal names the last one counts."""
    points = {
        level["name"]: Point(name=level["name"], level=level, folder=folder / level["folder"]) for level in levels
    }
    return Side(name=name, points=tuple(points.values()))


def _levels(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    data: Mapping[str, Any] = next((check["data"] for check in report["checks"] if check["name"] == "throughput"), {})
    levels: Sequence[Mapping[str, Any]] = data.get("levels", ())
    return levels
