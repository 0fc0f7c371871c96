"""AIPerf's `profile_export_aiperf.json` (0.13, schema 1.4), read and written, to lay both tools side by side.

Its `inter_token_latency` is one mean per request, which is our TPOT. It tokenizes the text anew to count tokens, unless
told otherwise; where it shows that the server counted differently, the server's count is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from types import MappingProxyType
from typing import Any

from serving.client.links import LINKS
from serving.load.summary import QUANTILES

EXPORT = "profile_export_aiperf.json"
_SCHEMA = "1.4"
_LATENCIES: Mapping[str, str] = MappingProxyType(
    {"ttft_ms": "time_to_first_token", "tpot_ms": "inter_token_latency", "e2e_ms": "request_latency"}
)
_RATES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "output_tokens_per_s": ("output_token_throughput", "tokens/sec"),
        "requests_per_s": ("request_throughput", "requests/sec"),
        "goodput_per_s": ("goodput", "requests/sec"),
    }
)
_COUNTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "completed": ("request_count", "requests"),
        "output_tokens": ("total_output_tokens", "tokens"),
        "isl": ("input_sequence_length", "tokens"),
        "osl": ("output_sequence_length", "tokens"),
        "duration_s": ("benchmark_duration", "sec"),
    }
)
_PHASES: Mapping[str, str] = MappingProxyType({"ClosedLoop": "concurrency", "Replay": "fixed_schedule"})
"""Where an arrival's kind has another name there."""

_IN_MS: Mapping[str, float] = MappingProxyType({"ms": 1.0, "sec": 1e3, "s": 1e3, "us": 1e-3, "ns": 1e-6})


def export(level: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """A level's JSON and its run.json in AIPerf's form; what neither knows is left out."""
    tree: dict[str, Any] = {"schema_version": _SCHEMA}
    for key, name in _LATENCIES.items():
        found = level.get(key)
        if found:
            tree[name] = {"unit": "ms", "avg": found["mean"], "max": found["max"]}
            tree[name] |= {quantile: found[quantile] for quantile in QUANTILES}
    for key, (name, unit) in (*_RATES.items(), *_COUNTS.items()):
        if level.get(key) is not None:
            tree[name] = {"unit": unit, "avg": level[key]}
    failed = sum(level["errors"].values())
    tree["error_request_count"] = {"unit": "requests", "avg": failed}
    tree["input_config"] = _config(level, run["endpoint"], run["arrivals"]["kind"])
    tree["was_cancelled"] = level["reason"] == "interrupted"
    return tree


def _config(level: Mapping[str, Any], endpoint: Mapping[str, Any], arrivals: str) -> dict[str, Any]:
    """What its BenchmarkConfig cannot be without."""
    loop = {"rate": level["rate"]} if level["rate"] else {"concurrency": max(round(level["concurrency"]), 1)}
    phase = {"name": "profiling", "kind": "profiling", "type": _PHASES.get(arrivals, arrivals)}
    lengths = {key: {"mean": level[key]} for key in ("isl", "osl") if level[key] is not None}
    scheme = "https" if endpoint["tls"] else "http"
    return {
        "models": {"items": [{"name": endpoint["model"] or LINKS[endpoint["transport"]].model}]},
        "endpoint": {"urls": [f"{scheme}://{endpoint['http']}"], "streaming": True},
        "datasets": [{"name": "main", "type": "synthetic", "entries": level["requests"], "prompts": lengths}],
        "phases": [{**phase, "requests": level["requests"], **loop}],
    }


def level_of(tree: Mapping[str, Any]) -> dict[str, Any] | None:
    """AIPerf's JSON as a level's; None when it is none. Only means have an interval there, by their deviation."""
    rates = {key: float(tree[name]["avg"]) for key, (name, _) in _RATES.items() if _has(tree, name)}
    if "requests_per_s" not in rates:
        return None
    counts = {key: float(tree[name]["avg"]) for key, (name, _) in _COUNTS.items() if _has(tree, name)}
    latencies = {key: _distribution(tree[name], counts) for key, name in _LATENCIES.items() if _has(tree, name)}
    level = {"name": _load_name(tree.get("input_config")), **rates, **counts, **latencies}
    return level | _as_the_server_counted(tree, level)


def _as_the_server_counted(tree: Mapping[str, Any], level: Mapping[str, Any]) -> dict[str, Any]:
    """What replaces figures that rest on tokens counted anew from text."""
    total = tree.get("total_usage_completion_tokens")
    counted = float(total["avg"]) if isinstance(total, Mapping) else level.get("output_tokens")
    if not counted or not level.get("output_tokens") or counted == level["output_tokens"]:
        return {}
    share = counted / level["output_tokens"]
    found: dict[str, Any] = {"output_tokens": counted, "tpot_ms": {}}
    if "output_tokens_per_s" in level:
        found["output_tokens_per_s"] = share * level["output_tokens_per_s"]
    note = (
        f"AIPerf counted {level['output_tokens']:,.0f} tokens from the text, the server {counted:,.0f}: the latter is"
    )
    return {**found, "notes": (f"{note} taken, and no TPOT",)}


def _has(tree: Mapping[str, Any], name: str) -> bool:
    return isinstance(tree.get(name), Mapping) and tree[name].get("avg") is not None


def _distribution(found: Mapping[str, Any], counts: Mapping[str, float]) -> dict[str, Any]:
    scale = _IN_MS.get(str(found.get("unit")), 1.0)
    values: dict[str, Any] = {
        ours: scale * float(found[theirs])
        for ours, theirs in (("mean", "avg"), ("max", "max"), *((name, name) for name in QUANTILES))
        if found.get(theirs) is not None
    }
    if found.get("std") is not None and counts.get("completed"):
        error = scale * float(found["std"]) / math.sqrt(counts["completed"])
        values["ci"] = {"mean": NormalDist().inv_cdf(0.975) * error}
    return values


def _load_name(config: Any) -> str:
    """The level's name by the phase that was measured; before 0.13 there was only one, under `loadgen`."""
    config = config if isinstance(config, Mapping) else {}
    phases = [phase for phase in config.get("phases") or () if phase.get("kind") == "profiling"]
    phase = phases[-1] if phases else config.get("loadgen") or {}
    concurrency, rate = phase.get("concurrency"), phase.get("rate") or phase.get("request_rate")
    if rate:
        return f"{rate:g} req/s"
    return f"concurrency {concurrency:g}" if concurrency else "AIPerf"
