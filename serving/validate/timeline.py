"""A run over time for the report: tokens and failures by the second, and what the server said of itself meanwhile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from serving.load.records import RECORDS, read_records
from serving.load.server_side import SERVER
from serving.load.slices import Slices

Points = tuple[tuple[float, float], ...]
Timeline = Mapping[str, Points]
"""(second, value) points of everything that is known: tokens_per_s, failed_per_s, and keys of _SERVER and _GPU."""

_SLICES, _LEAST_NS = 60, 100_000_000
_SERVER: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "batch": (r'nv_trt_llm_inflight_batcher_metrics\{.*="generation_requests"', 1),
        "active": (r'nv_trt_llm_request_metrics\{.*="active"', 1),
        "waiting": (r'nv_trt_llm_request_metrics\{.*="waiting"', 1),
        "kv_percent": (r'nv_trt_llm_kv_cache_block_metrics\{.*="fraction"', 100),
    }
)
_GPU: Mapping[str, Callable[[list[float]], float]] = MappingProxyType(
    {"power_w": sum, "utilization_percent": lambda values: sum(values) / len(values)}
)


def read_timeline(folder: Path) -> Timeline | None:
    """None when the folder holds no records."""
    if not (folder / RECORDS).is_file():
        return None
    found: dict[str, Points] = _of_records(folder)
    samples = list(_samples(folder / SERVER))
    for name, (pattern, scale) in _SERVER.items():
        wanted = re.compile(pattern)
        rows = [
            (sample, [value for key, value in sample["metrics"].items() if wanted.match(key)]) for sample in samples
        ]
        found[name] = tuple((_second(sample), scale * sum(values)) for sample, values in rows if values)
    for name, together in _GPU.items():
        rows = [(sample, [gpu[name] for gpu in sample["gpus"] if name in gpu]) for sample in samples]
        found[name] = tuple((_second(sample), together(values)) for sample, values in rows if values)
    return {name: points for name, points in found.items() if points}


def _of_records(folder: Path) -> dict[str, Points]:
    last_ns = max((record.ended_ns for record in read_records(folder)), default=0)
    slices = Slices(width_ns=max(last_ns // _SLICES, _LEAST_NS))
    for record in read_records(folder):
        slices.add(record)
    width_s = slices.width_ns / 1e9
    seconds = [(at + 0.5) * width_s for at in range(len(slices.rows))]
    return {
        "tokens_per_s": tuple((at, row.tokens / width_s) for at, row in zip(seconds, slices.rows, strict=True)),
        "failed_per_s": tuple((at, row.failed / width_s) for at, row in zip(seconds, slices.rows, strict=True))
        if any(row.failed for row in slices.rows)
        else (),
    }


def _samples(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return  # cut off by a crash


def _second(sample: Mapping[str, Any]) -> float:
    return float(sample["at_ns"]) / 1e9
