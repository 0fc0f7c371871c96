"""Runs of the load generator against a mock, and records made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.client.request import Endpoint, Request
from serving.load.arrivals import ClosedLoop
from serving.load.generator import Conditions
from serving.load.lengths import parse_lengths
from serving.load.records import Record
from serving.load.run import LoadPlan, LoadResult, run_load
from serving.load.until import Until
from serving.load.workload import Synthetic
from trtllm_kit.console import Silent

TEMPLATE = Request(top_k=1, end_id=-1, request_id="load-")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadResult]:
    """`load(endpoint, requests=20, output_len="8", ...)`; further keys go to the LoadPlan or its Conditions."""
    runs = [0]

    def run(
        endpoint: Endpoint,
        *,
        requests: int | None = 20,
        concurrency: int = 4,
        input_len: str = "4",
        output_len: str = "8",
        seed: int = 0,
        conditions: dict[str, Any] | None = None,
        **plan: Any,
    ) -> LoadResult:
        runs[0] += 1
        synthetic = Synthetic(input_len=parse_lengths(input_len), output_len=parse_lengths(output_len), seed=seed)
        values = {
            "workload": synthetic,
            "arrivals": ClosedLoop(concurrency=concurrency),
            "until": Until(requests=requests, duration_s=60),
            "conditions": Conditions(**{"template": TEMPLATE, **(conditions or {})}),
            "whole": True,
            **plan,
        }
        return run_load(endpoint, LoadPlan(**values), folder=tmp_path / f"run{runs[0]}", talk=Silent())

    return run


@pytest.fixture
def record() -> Callable[..., Record]:
    """`record(at_s=1.0, ttft_s=0.1, itl_s=0.02, tokens=10)`: a request of one token per response."""

    def make(*, at_s: float = 0.0, ttft_s: float = 0.1, itl_s: float = 0.02, tokens: int = 10, **values: Any) -> Record:
        due = round(at_s * 1e9)
        first = due + round(ttft_s * 1e9)
        usual: dict[str, Any] = {
            "number": 0,
            "session": 0,
            "turn": 0,
            "scheduled_ns": due,
            "sent_ns": due,
            "first_ns": first,
            "ended_ns": first + round(itl_s * 1e9) * (tokens - 1),
            "asked_input": 4,
            "asked_output": tokens,
            "input_tokens": 4,
            "output_tokens": tokens,
            "counted_by": "server",
            "error": None,
            "message": "",
            "gaps_us": (round(itl_s * 1e6),) * (tokens - 1),
            "counts": (),
        }
        return Record(**{**usual, **values})

    return make
