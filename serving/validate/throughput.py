"""Tokens per second and latencies, level by level, counted by the server and held against the limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.client.request import Endpoint
from serving.load.until import REASONS
from serving.validate.levels import Level, measure
from serving.validate.load import Load, Offer
from serving.validate.results import CheckResult
from serving.validate.saturation import Search, find_max, judge_search
from serving.validate.verdict import judge_levels
from trtllm_kit.console import Talk

ENDED_BADLY = ("interrupted", "unreachable")


def throughput(
    endpoint: Endpoint,
    load: Load,
    *,
    tokenizer_dir: Path | None,
    results: Path,
    search: Search | None = None,
    stream: bool = True,
    talk: Talk,
) -> tuple[CheckResult, list[Level]]:
    """Load the deployment level by level, or search the highest one within the SLO, and judge what came.

    An interrupt ends it with the levels so far. Records lie below `results`.
    """
    levels: list[Level] = []

    def run(offer: Offer) -> Level | None:
        level = measure(endpoint, load, offer, tokenizer_dir=tokenizer_dir, stream=stream, results=results, talk=talk)
        if level is not None:
            levels.append(level)
            talk.say(f"{level.name}: {line(level)}")
        return level

    ended, found = "", None
    try:
        if search is None:
            ended = _each(load.offers(), run)
        else:
            found = find_max(search, load, run)
            ended = found.ended
    except KeyboardInterrupt:
        ended = "interrupted"
    status, reasons = judge_levels(levels, load) if found is None else judge_search(found)
    if ended in ENDED_BADLY:
        status = "fail"
        reasons = (*reasons, f"{REASONS[ended]}: the figures are of what was measured until then")
    data = {**_conditions(levels, load, stream), "interrupted": ended == "interrupted"}
    if found is not None:
        data["search"] = found.to_json()
    return CheckResult(name="throughput", status=status, reasons=reasons, data=data), levels


def line(level: Level) -> str:
    """A level in a line."""
    ttft = f", TTFT p50 {level.ttft_ms.p50:.0f} ms" if level.ttft_ms else ""
    good = f", {level.good_share:.1%} within the SLO" if level.good_share is not None else ""
    failed = f", {sum(level.errors.values())} failed" if level.errors else ""
    return f"{level.output_tokens_per_s:.1f} output tokens/s{ttft}{good}{failed}"


def _each(offers: Iterator[Offer], run: Callable[[Offer], Level | None]) -> str:
    for offer in offers:
        level = run(offer)
        if level is None or level.reason in ENDED_BADLY:
            return level.reason if level is not None else "interrupted"
    return ""


def _conditions(levels: Sequence[Level], load: Load, stream: bool) -> Mapping[str, Any]:
    plan = load.plan
    measured = next((level for level in levels if level.isl and level.osl), None)
    given = load.given is not None and measured is not None
    return {
        "levels": [level.to_json() for level in levels],
        "input_len": measured.isl if given and measured else plan.input_len,
        "output_len": measured.osl if given and measured else plan.output_len,
        "seed": load.seed,
        "streamed": stream,
        "slo": {name: f"{limit / 1e6:g} ms" for name, limit in load.slo.limits_ns.items()} if load.slo else {},
        "prompts": "from a file" if load.given else "synthetic",
        "lengths": "fixed by end_id -1, which makes the engine ignore the end of the sequence",
    }
