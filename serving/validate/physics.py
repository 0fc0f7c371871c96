"""What no server can do: beat the roofline, answer with more than was asked for, or sooner than a signal travels.

Such a result is wrong, not fast: the server or the count is broken, and no other judgement of it means anything.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from serving.validate.levels import Level
from serving.validate.results import CheckResult

if TYPE_CHECKING:
    from profiles.performance import Setup

_TRIES, _TIMEOUT_S = 5, 2.0
_CLOCK = 1.03
"""Boost clocks and rounded data sheets: a figure must be above the roofline by more than this to be called wrong."""


def round_trip_ms(address: str) -> float | None:
    """The network's shortest round trip to "host:port", by the handshake of TCP; None when nobody answers."""
    host, _, port = address.rpartition(":")
    found: list[float] = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S):
            found.append(1e3 * (time.perf_counter() - started))
    return min(found, default=None)


def physics(
    levels: Sequence[Level],
    *,
    rtt_ms: float | None,
    setup: Setup | None,
    why_no_setup: str = "",
    fresh_prompts: bool = True,
) -> CheckResult:
    """Fails with a line for everything impossible. Without `setup` there is no roofline, and it says so."""
    ceilings = {level.name: _ceiling(level, setup, fresh_prompts) for level in levels} if setup else {}
    wrong = [line for level in levels for line in _wrong(level, rtt_ms, ceilings.get(level.name))]
    notes = [] if setup else [f"no roofline: {why_no_setup}"]
    return CheckResult(
        name="physics",
        status="fail" if wrong else "pass",
        reasons=(*(f"wrong, not fast: {line}" for line in wrong), *notes),
        data={"rtt_ms": rtt_ms, "roofline_tokens_per_s": ceilings},
    )


def roofline_tokens_per_s(setup: Setup, isl: int, osl: int, concurrency: float, *, fresh_prompts: bool = True) -> float:
    """Output tokens/s that no replica can exceed: all products at the peak rate, weights and KV cache read once a step.

    `fresh_prompts` False leaves the work of prefill out, since the server may have it in its cache.
    """
    import numpy as np

    from profiles.performance.columns import Question, columns
    from profiles.performance.step import roofline_s

    asked = columns([Question(setup, isl, osl, concurrency=concurrency)])
    rank = np.maximum(concurrency / asked.pp / asked.dp, 1.0)
    prompts = rank * isl / osl if fresh_prompts else np.zeros_like(rank)
    return float(concurrency / (asked.pp * roofline_s(asked, rank, prompts))[0])


def _ceiling(level: Level, setup: Setup | None, fresh_prompts: bool) -> float | None:
    if setup is None or not level.isl or not level.osl or not level.concurrency:
        return None
    users = max(level.concurrency, 1.0)
    return roofline_tokens_per_s(setup, level.isl, level.osl, users, fresh_prompts=fresh_prompts)


def _wrong(level: Level, rtt_ms: float | None, ceiling: float | None) -> Iterator[str]:
    yield from (f"at {level.name}, {line}" for line in level.impossible)
    if ceiling is not None and level.output_tokens_per_s > _CLOCK * ceiling:
        yield (
            f"at {level.name}, {level.output_tokens_per_s:,.0f} output tokens/s, the roofline is {ceiling:,.0f}:"
            " the weights cannot be read so often"
        )
    least = level.least_ttft_ms
    if rtt_ms is not None and least is not None and least < rtt_ms:
        yield f"at {level.name}, a first token after {least:.3g} ms, the network's round trip is {rtt_ms:.3g} ms"
