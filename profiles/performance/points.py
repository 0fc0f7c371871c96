"""The user's own points for calibration: a small JSON or CSV format, or a report of `trtllm-kit validate`.

A point is `isl, osl, concurrency` with `tpot_ms`, `ttft_ms`, or `output_tokens_per_s`; what holds for all points
(`model, precision, tp, pp, kv_bits, trtllm_version`) may stand once beside `points`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from profiles import versions
from profiles.performance.calibration import Miss
from profiles.performance.columns import Question
from profiles.performance.model import predict
from profiles.performance.rows import FindShape
from profiles.performance.setup import Setup
from profiles.skus import Sku
from trtllm_kit.errors import SpecError
from trtllm_kit.files import read_json
from trtllm_kit.identifier import BuildIdentifier

Point = Mapping[str, Any]

_NEEDED = ("model", "precision", "isl", "osl", "concurrency")
_FIGURES = ("tpot_ms", "ttft_ms", "output_tokens_per_s")


def read(path: Path) -> list[Point]:
    """All points of one file; SpecError says what is missing."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            found: list[Point] = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    else:
        found = list(_of_json(read_json(path, "points")))
    for number, point in enumerate(found, 1):
        missing = [name for name in _NEEDED if not point.get(name)]
        if missing or not any(point.get(name) for name in _FIGURES):
            raise SpecError(
                f"{path}: point {number} has no {missing[0] if missing else ' or '.join(_FIGURES)}",
                expected=f"{', '.join(_NEEDED)} and one of {', '.join(_FIGURES)}",
                fix="add it to the point, or once beside `points`",
            )
    return found


def misses(points: Sequence[Point], sku: Sku, shape: FindShape) -> list[Miss]:
    """How far each point is from what is predicted without any calibration."""
    asked = [_question(point, sku, shape) for point in points]
    found = []
    for point, question, answer in zip(points, asked, predict(asked, calibrated=False), strict=True):
        seen = answer.operating
        decode = _log_ratio(point.get("tpot_ms"), seen.tpot_ms.value)
        if decode is None:  # time is the inverse of the rate
            decode = _log_ratio(seen.output_tokens_per_s.value, point.get("output_tokens_per_s"))
        prefill = _log_ratio(point.get("ttft_ms"), seen.ttft_ms.value)
        found.append(Miss(setup=question.setup, decode=decode, prefill=prefill))
    return found


def _of_json(tree: Any) -> Iterator[Point]:
    if isinstance(tree, list):
        yield from (point for point in tree if isinstance(point, Mapping))
    elif isinstance(tree, Mapping) and "checks" in tree:
        yield from _of_report(tree)
    elif isinstance(tree, Mapping):
        shared = {name: value for name, value in tree.items() if name != "points"}
        yield from ({**shared, **point} for point in tree.get("points", ()))


def _of_report(report: Mapping[str, Any]) -> Iterator[Point]:
    """The levels of a validation that carried load and found nothing impossible."""
    identifier = BuildIdentifier.parse(str(report.get("about", {}).get("identifier", "")))
    shared = {
        "model": identifier.model,
        "precision": identifier.precision,
        "tp": identifier.tp,
        "pp": identifier.pp,
        "trtllm_version": report["about"].get("versions", {}).get("trtllm"),
    }
    data: Mapping[str, Any] = next((check["data"] for check in report["checks"] if check["name"] == "throughput"), {})
    for level in data.get("levels", ()):
        if level["completed"] and not level["impossible"] and not level["errors"]:
            yield {
                **shared,
                "isl": data["input_len"],
                "osl": data["output_len"],
                "concurrency": level["concurrency"],
                "output_tokens_per_s": level["output_tokens_per_s"],
                "ttft_ms": (level["ttft_ms"] or {}).get("mean"),
                "tpot_ms": (level["tpot_ms"] or {}).get("mean"),
            }


def _question(point: Point, sku: Sku, shape: FindShape) -> Question:
    precision = str(point["precision"])
    setup = Setup(
        shape=shape(str(point["model"])),
        precision=precision,
        kv_bits=_number(point, "kv_bits", 16 if precision in ("bf16", "fp16") else 8),
        sku=sku,
        tp_size=int(_number(point, "tp", 1)),
        pp_size=int(_number(point, "pp", 1)),
        trtllm_version=str(point.get("trtllm_version") or versions.DEFAULT),
    )
    isl, osl = (int(_number(point, name, 0)) for name in ("isl", "osl"))
    return Question(setup, isl, osl, concurrency=_number(point, "concurrency", 0))


def _number(point: Point, name: str, otherwise: float) -> float:
    try:
        value = float(point.get(name) or otherwise)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise SpecError(f"{name} is {point.get(name)!r}", expected="a positive number", fix="correct the point")
    return value


def _log_ratio(above: Any, below: Any) -> float | None:
    return math.log(float(above) / float(below)) if above and below else None
