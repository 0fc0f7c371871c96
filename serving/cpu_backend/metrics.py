"""The gauges of upstream's backend, by their own names and labels, so that its dashboards and autoscalers work.

Left out, because the CPU library does not tell them: KV block type `reused` and the batcher's `paused_requests`.
Each change of a gauge is a message to the server process, so only changes are sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from serving.cpu_backend.stats import EngineStats

Source = Callable[[EngineStats], float]


def _rss_bytes(_: EngineStats) -> float:
    import resource
    from pathlib import Path

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


# family → (its help, its label, label value → source)
FAMILIES: dict[str, tuple[str, str, dict[str, Source]]] = {
    "nv_trt_llm_request_metrics": (
        "TRT LLM request metrics",
        "request_type",
        {
            "active": lambda s: s.active_requests,
            "max": lambda s: s.max_requests,
            "scheduled": lambda s: s.scheduled_requests,
            "context": lambda s: s.context_requests,
            "waiting": lambda s: s.waiting_requests,
        },
    ),
    "nv_trt_llm_runtime_memory_metrics": (
        "TRT LLM runtime memory metrics",
        "memory_type",
        {"cpu": _rss_bytes, "gpu": lambda s: 0, "pinned": lambda s: 0},
    ),
    "nv_trt_llm_kv_cache_block_metrics": (
        "TRT LLM KV cache block metrics",
        "kv_cache_block_type",
        {
            "max": lambda s: s.max_blocks,
            "free": lambda s: s.free_blocks,
            "used": lambda s: s.used_blocks,
            "tokens_per": lambda s: s.tokens_per_block,
            "fraction": lambda s: s.used_fraction,
        },
    ),
    "nv_trt_llm_inflight_batcher_metrics": (
        "TRT LLM inflight_batcher-specific metrics",
        "inflight_batcher_specific_metric",
        {
            "total_context_tokens": lambda s: s.context_tokens,
            "generation_requests": lambda s: s.generation_requests,
            "micro_batch_id": lambda s: 0,
        },
    ),
    "nv_trt_llm_general_metrics": (
        "General TRT LLM metrics",
        "general_type",
        {"timestamp": lambda s: int(time.time() * 1e6), "iteration_counter": lambda s: s.iteration},
    ),
}


class Gauges:
    """The gauges of one model in the server's metrics endpoint."""

    def __init__(self, pb_utils: Any, model: str, version: str) -> None:
        self._gauges: list[tuple[Any, Source]] = []
        self._sent: dict[int, float] = {}
        self._seen: EngineStats | None = None
        self._families = []  # a family ends with its object
        for name, (description, label, sources) in FAMILIES.items():
            family = pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.GAUGE)
            self._families.append(family)
            for value, source in sources.items():
                gauge = family.Metric(labels={"model": model, "version": version, label: value})
                self._gauges.append((gauge, source))

    def publish(self, stats: EngineStats) -> None:
        """Send what changed since the last call."""
        if stats == self._seen:
            return
        self._seen = stats
        for index, (gauge, source) in enumerate(self._gauges):
            value = float(source(stats))
            if self._sent.get(index) != value:
                self._sent[index] = value
                gauge.set(value)
