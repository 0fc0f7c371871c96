"""Levels and records made by hand, for what no server can be made to do on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from serving.load.records import Record
from serving.load.summary import Distribution
from serving.validate.levels import Level


@pytest.fixture
def level() -> Callable[..., Level]:
    """`level(name="concurrency 8", output_tokens_per_s=900.0, ...)`."""

    def make(*, concurrency: float = 1, ttft_ms: float = 50.0, tpot_ms: float = 10.0, **values: Any) -> Level:
        usual: dict[str, Any] = {
            "name": f"concurrency {concurrency:g}",
            "concurrency": concurrency,
            "rate": None,
            "requests": 100,
            "completed": 100,
            "unfinished": 0,
            "errors": {},
            "messages": {},
            "duration_s": 64.0,
            "output_tokens": 6400,
            "input_tokens": 12800,
            "isl": 128,
            "osl": 64,
            "ended_early": 0,
            "counted_by": "server",
            "output_tokens_per_s": 100.0,
            "output_tokens_per_s_ci": None,
            "requests_per_s": 1.5,
            "goodput_per_s": None,
            "good_share": None,
            "good_tokens_per_s": None,
            "ttft_ms": _flat(ttft_ms),
            "tpot_ms": _flat(tpot_ms),
            "itl_ms": _flat(tpot_ms),
            "e2e_ms": _flat(ttft_ms + 63 * tpot_ms),
            "spread": {},
            "least_ttft_ms": ttft_ms,
            "repeats": (100.0,),
            "reason": "requests",
            "window": {"start_s": 0.0, "end_s": 64.0, "why": ""},
            "client": {},
            "warnings": (),
            "impossible": (),
            "folder": "runs/01",
        }
        return Level(**{**usual, **values})

    return make


@pytest.fixture
def record() -> Callable[..., Record]:
    """`record(at_s=1.0, ttft_s=0.1, itl_s=0.02, tokens=10)`: a request of one token per response."""

    def make(*, at_s: float = 0.0, ttft_s: float = 0.1, itl_s: float = 0.02, tokens: int = 10) -> Record:
        due, gap_us = round(at_s * 1e9), round(itl_s * 1e6)
        first = due + round(ttft_s * 1e9)
        return Record(
            number=0,
            session=0,
            turn=0,
            scheduled_ns=due,
            sent_ns=due,
            first_ns=first,
            ended_ns=first + 1000 * gap_us * (tokens - 1),
            asked_input=4,
            asked_output=tokens,
            input_tokens=4,
            output_tokens=tokens,
            counted_by="server",
            error=None,
            message="",
            gaps_us=(gap_us,) * (tokens - 1),
            counts=(),
        )

    return make


def _flat(value: float) -> Distribution:
    return Distribution(count=100, mean=value, p50=value, p90=value, p95=value, p99=value, max=value)
