"""Blocks of load: what is sent in one, and what it measures."""

from __future__ import annotations

import itertools
import math
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.client.request import Request
from serving.load.arrivals import ClosedLoop
from serving.load.generator import Conditions
from serving.load.lengths import Lengths
from serving.load.records import Record
from serving.load.run import LoadPlan, run_load
from serving.load.until import Until
from serving.load.workload import NO_END, Given, Session, Synthetic, Workload
from serving.nightly.ab.contender import Contender, LostError
from serving.nightly.ab.rule import Rule
from trtllm_kit.console import Silent

Block = Mapping[str, float]
"""What a block measured, by metric: ttft_ms, tpot_ms, output_tokens_per_s."""

Prompts = Sequence[Session]


class Load:
    """What both sides are sent. No prompt comes twice to a side, so that no cache answers for the engine.

    Args:
        scratch: a folder for one block's records at a time.
    """

    def __init__(self, workload: Workload, *, concurrency: int, stream: bool, seed: int, scratch: Path) -> None:
        self.concurrency, self.seed = concurrency, seed
        self._sessions = workload.sessions()
        self._stream, self._scratch = stream, scratch

    @classmethod
    def of(cls, rule: Rule, artifact: Path, manifest: Mapping[str, Any], *, scratch: Path) -> Load:
        """As the rule says, else as the artifact's own spec."""
        spec = manifest["spec"]
        workload = Synthetic(
            input_len=_tokens(rule.input_len or spec["validation"]["input_len"]),
            output_len=_tokens(rule.output_len or spec["validation"]["output_len"]),
            seed=rule.seed,
            tokenizer_dir=artifact / "tokenizer",
        )
        stream = bool(spec["serving"]["decoupled_mode"])
        return cls(workload, concurrency=rule.concurrency, stream=stream, seed=rule.seed, scratch=scratch)

    def take(self, requests: int) -> Prompts:
        """The next prompts."""
        return list(itertools.islice(self._sessions, requests))

    def run(self, side: Contender, prompts: Prompts) -> Block:
        """One block. LostError when not every request was answered."""
        assert side.endpoint is not None
        plan = LoadPlan(
            workload=Given(given=prompts, once=True),
            arrivals=ClosedLoop(concurrency=self.concurrency),
            until=Until(requests=len(prompts)),
            conditions=Conditions(
                template=Request(stream=self._stream, top_k=1, end_id=NO_END, request_id="ab-"),
                give_up_after=self.concurrency,
            ),
            whole=True,
        )
        try:
            result = run_load(side.endpoint, plan, folder=self._scratch, talk=Silent())
            records = list(result.records())
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if result.reason == "interrupted":
            raise KeyboardInterrupt
        failed = [record for record in records if record.error is not None]
        if failed:
            what = f"{len(failed)} of {len(records)} requests ended '{failed[0].error}': {failed[0].message}"
            raise LostError(side, what if side.alive else side.explain(f"it died under load: {what}"))
        return figures(records)

    def round_s(self, side: Contender) -> float:
        """Seconds that a request on every place takes, after one that wakes the engine."""
        for _ in range(2):
            began = time.monotonic()
            self.run(side, self.take(self.concurrency))
        return time.monotonic() - began

    def requests_for(self, seconds: float, round_s: float) -> int:
        """How many requests fill a block of about `seconds`."""
        return self.concurrency * max(1, math.ceil(seconds / round_s))


def figures(records: Sequence[Record]) -> Block:
    """Medians over the requests, so that a stutter of the machine is one request's; latencies only of streamed ones."""
    span_ns = max(record.ended_ns for record in records) - min(record.sent_ns for record in records)
    found = {"output_tokens_per_s": 1e9 * sum(record.output_tokens for record in records) / span_ns}
    tpot_ns = [record.tpot_ns for record in records if record.tpot_ns]
    if tpot_ns:
        found["ttft_ms"] = statistics.median(record.ttft_ns or 0 for record in records) / 1e6
        found["tpot_ms"] = statistics.median(tpot_ns) / 1e6
    return found


def _tokens(count: int) -> Lengths:
    return Lengths(kind="", first=count)
