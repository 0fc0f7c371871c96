"""Tokens per second and latencies at a few concurrencies, counted by the server and checked for the impossible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.plan import ValidationPlan
from serving.client.loop import run
from serving.client.request import Endpoint, Request
from serving.client.transports import open_client
from serving.validate.load import LoadRun, RequestRecord, closed_loop
from serving.validate.prompts import synthetic_prompts
from serving.validate.results import CheckResult
from serving.validate.statistics import Latency, latency_ms
from serving.validate.verdict import judge_levels
from trtllm_kit.console import Talk

SEED = 20_240_607
_TIMEOUT_S = 300.0
NO_END = -1
"""As `end_id` it makes the engine ignore the end of the sequence, so that every answer has the length asked for."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """One concurrency. Rates are over the time from the first request sent to the last ended; errors count apart."""

    concurrency: int
    requests: int
    completed: int
    errors: Mapping[str, int]  # kind -> count
    messages: tuple[str, ...]  # one example of each error
    duration_s: float
    output_tokens: int
    input_tokens: int
    ended_early: int  # complete answers shorter than asked for
    counted_by: str  # "server" or "responses"
    output_tokens_per_s: float
    requests_per_s: float
    ttft_ms: Latency | None
    tpot_ms: Latency | None  # per request: time after the first token over the tokens after it
    itl_ms: Latency | None  # every single gap between tokens
    e2e_ms: Latency | None
    impossible: tuple[str, ...]  # what cannot be true: a measurement to be thrown away, not a fast server


def throughput(
    endpoint: Endpoint,
    plan: ValidationPlan,
    *,
    tokenizer_dir: Path | None,
    prompts: Sequence[str] | None = None,
    decoupled: bool = True,
    timeout_s: float = _TIMEOUT_S,
    seed: int = SEED,
    talk: Talk,
) -> CheckResult:
    """Load the deployment level by level and judge it against the plan's limits.

    `prompts` are sent in turn, over and over; without them each level gets synthetic ones of its own, so that none
    profits from prefixes that another left in the cache.
    """
    levels: list[Level] = []
    for concurrency in plan.concurrencies:
        count = max(plan.requests_per_level, concurrency)
        texts = _texts(prompts, plan, count + concurrency, seed + concurrency, tokenizer_dir)
        requests = _requests(texts, plan.output_len, concurrency, stream=decoupled)
        load = run(_measure(endpoint, requests, concurrency, timeout_s, talk))
        levels.append(summarise(load))
        talk.say(_line(levels[-1]))
    status, reasons = judge_levels(levels, plan)
    return CheckResult(name="throughput", status=status, reasons=reasons, data=_data(levels, plan, seed, decoupled))


def summarise(load: LoadRun) -> Level:
    """The figures of one level, from its records alone."""
    whole = [record for record in load.records if record.error is None]
    failed = [record for record in load.records if record.error is not None]
    tokens = sum(record.tokens for record in whole)
    return Level(
        concurrency=load.concurrency,
        requests=len(load.records),
        completed=len(whole),
        errors=dict(sorted(Counter(str(record.error) for record in failed).items())),
        messages=tuple(dict.fromkeys(record.message for record in failed))[:3],
        duration_s=load.duration_s,
        output_tokens=tokens,
        input_tokens=sum(record.input_tokens or 0 for record in whole),
        ended_early=sum(record.tokens < record.asked for record in whole),
        counted_by="responses" if any(record.counted_by == "responses" for record in whole) else "server",
        output_tokens_per_s=tokens / load.duration_s,
        requests_per_s=len(whole) / load.duration_s,
        ttft_ms=latency_ms([record.first_s - record.sent_s for record in whole if record.first_s is not None]),
        tpot_ms=latency_ms([_tpot(record) for record in whole if record.gaps_s]),
        itl_ms=latency_ms([gap for record in whole for gap in record.gaps_s]),
        e2e_ms=latency_ms([record.last_s - record.sent_s for record in whole]),
        impossible=tuple(_impossible(whole)),
    )


def _texts(
    prompts: Sequence[str] | None, plan: ValidationPlan, count: int, seed: int, tokenizer_dir: Path | None
) -> list[str]:
    if prompts:
        return [prompts[at % len(prompts)] for at in range(count)]
    return synthetic_prompts(count, plan.input_len, seed=seed, tokenizer_dir=tokenizer_dir)


def _tpot(record: RequestRecord) -> float:
    return (record.last_s - (record.first_s or record.last_s)) / len(record.gaps_s)


def _impossible(records: Sequence[RequestRecord]) -> list[str]:
    more = [record for record in records if record.tokens > record.asked]
    none = [record for record in records if record.tokens == 0]
    early = [record for record in records if record.first_s is not None and record.first_s <= record.sent_s]
    lines = []
    if more:
        lines.append(f"{len(more)} answers have more tokens than asked for ({more[0].tokens} of {more[0].asked})")
    if none:
        lines.append(f"{len(none)} answers ended without a single token")
    if early:
        lines.append(f"{len(early)} answers came before their request was sent")
    return lines


def _requests(prompts: list[str], output_len: int, concurrency: int, *, stream: bool) -> list[Request]:
    return [
        Request(
            prompt=prompt,
            max_tokens=output_len,
            stream=stream,
            top_k=1,
            end_id=NO_END,
            request_id=f"load-{concurrency}-{at}",
        )
        for at, prompt in enumerate(prompts)
    ]


async def _measure(
    endpoint: Endpoint, requests: list[Request], concurrency: int, timeout_s: float, talk: Talk
) -> LoadRun:
    what = f"throughput at concurrency {concurrency}"
    async with open_client(endpoint) as client:
        return await closed_loop(
            client,
            requests[:-concurrency],
            warm_up=requests[-concurrency:],
            concurrency=concurrency,
            timeout_s=timeout_s,
            done=lambda count: talk.progress(count, len(requests) - concurrency, what),
        )


def _line(level: Level) -> str:
    ttft = f", TTFT p50 {level.ttft_ms.p50:.0f} ms" if level.ttft_ms else ""
    failed = f", {level.requests - level.completed} failed" if level.completed < level.requests else ""
    return f"concurrency {level.concurrency}: {level.output_tokens_per_s:.1f} output tokens/s{ttft}{failed}"


def _data(levels: list[Level], plan: ValidationPlan, seed: int, decoupled: bool) -> dict[str, Any]:
    return {
        "levels": [asdict(level) for level in levels],
        "input_len": plan.input_len,
        "output_len": plan.output_len,
        "seed": seed,
        "streamed": decoupled,
        "lengths": "fixed by end_id -1, which makes the engine ignore the end of the sequence",
    }
