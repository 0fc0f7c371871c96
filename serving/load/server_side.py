"""What the server and its GPUs say meanwhile: Triton's metrics and statistics, NVML, once a second to a file."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serving.client.trust import Trust
from serving.load.gpus import Gpus

SERVER = "server.jsonl"
_PERIOD_S, _TIMEOUT_S = 1.0, 2.0
_WANTED = ("nv_inference_", "nv_trt_llm_", "nv_llm_", "nv_gpu_", "nv_energy_", "nv_cache_", "mock_")
_LINE = re.compile(r"^(\w+(?:\{[^}]*\})?)\s+(\S+)")

Metrics = dict[str, float]


class ServerSampler:
    """Samples on a thread of its own until closed; what cannot be reached is left out, and `missing` says so."""

    def __init__(self, folder: Path, *, metrics_url: str | None, trust: Trust, origin_ns: Callable[[], int]) -> None:
        self.missing: list[str] = []
        self.before: Metrics = {}
        self.after: Metrics = {}
        self._url = metrics_url
        self._tls = trust.context() if metrics_url is not None and metrics_url.startswith("https:") else None
        self._origin_ns = origin_ns
        self._file = (folder / SERVER).open("w", encoding="utf-8")
        self._over = threading.Event()
        self._gpus = Gpus()
        self.before = self._metrics()
        self._thread = threading.Thread(target=self._run, name="trtllm-kit-server-sampler", daemon=True)

    def start(self) -> None:
        """Begin to sample, where there is something to."""
        if self._url is not None or self._gpus:
            self._thread.start()

    def close(self) -> Mapping[str, float]:
        """Stop; how much each counter grew."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2 * _TIMEOUT_S)
        self.after = self._metrics()
        self._gpus.close()
        self._file.close()
        return {name: value - self.before.get(name, 0.0) for name, value in self.after.items()}

    def _run(self) -> None:
        while not self._over.wait(_PERIOD_S):
            at_ns = time.perf_counter_ns() - self._origin_ns()
            sample: dict[str, Any] = {"at_ns": at_ns, "metrics": self._metrics(), "gpus": self._gpus.read()}
            self._file.write(json.dumps(sample, separators=(",", ":")) + "\n")

    def _metrics(self) -> Metrics:
        if self._url is None:
            return {}
        import urllib.request  # what it imports in its turn would slow down every start

        try:
            with urllib.request.urlopen(self._url, timeout=_TIMEOUT_S, context=self._tls) as answer:
                return parse_metrics(answer.read().decode("utf-8", "replace"))
        except (OSError, ValueError) as error:
            if not self.missing:
                self.missing.append(f"no metrics at {self._url}: {error}")
            return {}


def parse_metrics(text: str) -> Metrics:
    """Prometheus text → {name with labels: value}, Triton's own families only."""
    rows = (_LINE.match(line) for line in text.splitlines() if line.startswith(_WANTED))
    return {row[1]: float(row[2]) for row in rows if row}
