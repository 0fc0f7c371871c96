"""One load test from its plan to its folder: run.json, records, server samples and a summary."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serving.client.request import Endpoint, Request
from serving.load.arrivals import Arrivals
from serving.load.client_meter import ClientUse
from serving.load.generator import Conditions, Flown, Generator
from serving.load.records import Record, RecordWriter, read_records, write_parquet
from serving.load.server_side import ServerSampler
from serving.load.slo import Slo
from serving.load.summary import Summary, summarise
from serving.load.until import REASONS, Until
from serving.load.workload import NO_END, Workload
from trtllm_kit.console import Talk
from trtllm_kit.files import pretty_json, write_text_atomic

RUN, SUMMARY = "run.json", "summary.json"
_PROGRESS_S = 0.5
_YOUNG = 50_000  # allocations between two looks for garbage; the default of 700 would pause every few tokens


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """All that a run depends on, beside the server."""

    workload: Workload
    arrivals: Arrivals
    until: Until
    conditions: Conditions = field(
        default_factory=lambda: Conditions(template=Request(top_k=1, end_id=NO_END, request_id="load-"))
    )
    slo: Slo | None = None
    warm_up_s: float | None = None  # None: found from the run itself
    whole: bool = False  # leave nothing out
    metrics_url: str | None = None  # Triton's /metrics, for the server's side


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What came of it; the same is in `folder`."""

    folder: Path
    summary: Summary | None  # None when not one request was sent
    client: ClientUse
    reason: str  # why it ended, a key of serving.load.until.REASONS
    first_send_s: float
    server: Mapping[str, float]  # growth of the server's counters
    warnings: tuple[str, ...]

    def records(self) -> Iterator[Record]:
        """All requests, from disk."""
        return read_records(self.folder)


def run_load(endpoint: Endpoint, plan: LoadPlan, *, folder: Path, talk: Talk) -> LoadResult:
    """Run the plan against the endpoint. An interrupt ends it early, with what was measured."""
    writer = RecordWriter(folder)
    started_unix_s = time.time()
    generator = Generator(endpoint, plan.workload, plan.arrivals, plan.until, plan.conditions, on_record=writer.write)
    sampler = ServerSampler(
        folder, metrics_url=plan.metrics_url, trust=endpoint.trust, origin_ns=lambda: generator.origin_ns
    )
    try:
        with _calm_collector():
            sampler.start()
            flown = asyncio.run(_fly(generator, plan, talk))
    finally:
        writer.close()
        grown = sampler.close()
    summary = summarise(lambda: read_records(folder), slo=plan.slo, warm_up_s=plan.warm_up_s, whole=plan.whole)
    warnings = (*flown.client.warnings(), *sampler.missing, *_doubts(summary))
    result = LoadResult(
        folder=folder,
        summary=summary,
        client=flown.client,
        reason=flown.reason,
        first_send_s=flown.first_send_s,
        server=grown,
        warnings=warnings,
    )
    _write(result, endpoint, plan, flown, started_unix_s)
    write_parquet(folder)
    return result


async def _fly(generator: Generator, plan: LoadPlan, talk: Talk) -> Flown:
    loop = asyncio.get_running_loop()
    progress = loop.create_task(_tell(generator, plan, talk))
    # Only the main thread hears signals; elsewhere whoever owns the thread stops it.
    own_signals = threading.current_thread() is threading.main_thread()
    if own_signals:
        loop.add_signal_handler(signal.SIGINT, generator.stop, "interrupted")
    try:
        return await generator.run()
    finally:
        progress.cancel()
        if own_signals:
            loop.remove_signal_handler(signal.SIGINT)


async def _tell(generator: Generator, plan: LoadPlan, talk: Talk) -> None:
    started = time.perf_counter()
    while True:
        await asyncio.sleep(_PROGRESS_S)
        elapsed = time.perf_counter() - started
        rows = generator.slices.rows[-6:-1]
        rate = sum(row.tokens for row in rows) / len(rows) if rows else 0.0
        sent, in_air = generator.traffic
        shares = [sent / plan.until.requests if plan.until.requests else 0.0]
        shares.append(elapsed / plan.until.duration_s if plan.until.duration_s else 0.0)
        talk.progress(max(shares), 1.0, f"{sent} sent, {in_air} in the air, {rate:.0f} tok/s")


@contextlib.contextmanager
def _calm_collector() -> Iterator[None]:
    """What is alive now stays so: looking through it again and again would be a pause in every stream."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _doubts(summary: Summary | None) -> list[str]:
    """What makes figures doubtful, whoever judges them."""
    if summary is None:
        return ["no request was sent"]
    found = []
    if summary.too_long:
        found.append(f"{summary.too_long} answers have more tokens than asked for: the counts cannot be true")
    if summary.counted_by.get("responses"):
        found.append("the server gives no token counts; one response is counted as one token")
    if not summary.window.steady and summary.window.why.startswith("not steady"):
        found.append(summary.window.why)
    return found


def _write(result: LoadResult, endpoint: Endpoint, plan: LoadPlan, flown: Flown, started_unix_s: float) -> None:
    template = asdict(plan.conditions.template)
    about = {
        "endpoint": asdict(endpoint),
        "arrivals": {"kind": type(plan.arrivals).__name__, **_plain(plan.arrivals)},
        "until": asdict(plan.until),
        "workload": {"kind": type(plan.workload).__name__, **_plain(plan.workload)},
        "sampling": {name: value for name, value in template.items() if value not in (None, (), "")},
        "slo_ns": dict(plan.slo.limits_ns) if plan.slo else None,
        "started_unix_s": started_unix_s,
        "origin_ns": flown.origin_ns,
        "reason": f"{result.reason}: {REASONS[result.reason]}",
        "first_send_s": result.first_send_s,
        "client": asdict(result.client),
        "server": dict(result.server),
        "warnings": list(result.warnings),
    }
    write_text_atomic(result.folder / RUN, pretty_json(about))
    if result.summary is not None:
        write_text_atomic(result.folder / SUMMARY, pretty_json(asdict(result.summary)))


def _plain(value: Any) -> dict[str, Any]:
    """A plan's part as JSON; long lists of sessions and times by their number."""
    found: dict[str, Any] = {}
    for name, item in vars(value).items():
        if isinstance(item, (list, tuple)):
            found[f"{name}_count"] = len(item)
        else:
            found[name] = json.loads(json.dumps(item, default=lambda other: getattr(other, "__dict__", str(other))))
    return found
