"""What the mock tells about itself: Triton's metadata, statistics and metrics, OpenAI's models, and its ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from serving.mock.behaviour import Behaviour
from serving.mock.ledger import Ledger

SERVER_VERSION = "2.51.0"
MODELS = {"engine": ("ensemble", "postprocessing", "preprocessing", "tensorrt_llm"), "llmapi": ("tensorrt_llm",)}
_BAD_ENDS = ("refused", "hidden_error", "late_error", "cut", "garbage")

Answer = tuple[int, str, bytes]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Answers to everything that is no generation."""

    behaviour: Behaviour
    ledger: Ledger
    layout: str  # engine or llmapi

    @property
    def model(self) -> str:
        """The model that completes."""
        return MODELS[self.layout][0]

    def answer(self, method: str, path: str) -> Answer:
        """(status, content type, body)."""
        known: dict[str, Callable[[], Any]] = {
            "/v2": self._server,
            "/v2/health/live": dict,
            "/v2/health/ready": dict,
            "/v2/models/stats": self.statistics,
            "/v2/repository/index": lambda: [{"name": name, "version": "1", "state": "READY"} for name in self.models],
            "/v1/models": lambda: {"object": "list", "data": [{"id": self.model, "object": "model"}]},
            "/mock/behaviour": lambda: asdict(self.behaviour),
            "/mock/totals": self.ledger.totals,
        }
        if path == "/metrics":
            return HTTPStatus.OK, "text/plain; charset=utf-8", self.metrics().encode()
        if path == "/mock/ledger":
            return HTTPStatus.OK, "application/jsonl", "".join(self.ledger.lines()).encode()
        if path in known:
            return _json(HTTPStatus.OK, known[path]())
        return self._about_model(path)

    def statistics(self) -> dict[str, Any]:
        """As GET /v2/models/stats; durations are left at zero."""
        return {"model_stats": [self._model_statistics(name) for name in self.models]}

    def config(self) -> dict[str, Any]:
        """The part of a model's configuration that clients read."""
        return {"name": self.model, "model_transaction_policy": {"decoupled": True}}

    def metrics(self) -> str:
        """Prometheus text with upstream's names."""
        totals = self.ledger.totals()
        label = f'model="{self.model}",version="1"'
        requests = 'model="tensorrt_llm",version="1",request_type'
        rows = [
            ("nv_inference_request_success", "counter", label, self._good),
            ("nv_inference_request_failure", "counter", f'{label},reason="BACKEND"', self._bad),
            ("nv_inference_count", "counter", label, self._good + self._bad),
            ("nv_trt_llm_request_metrics", "gauge", f'{requests}="active"', totals["active"]),
            ("nv_trt_llm_request_metrics", "gauge", f'{requests}="max"', self.behaviour.slots),
            ("mock_output_tokens", "counter", label, totals["output_tokens"]),
        ]
        lines: list[str] = []
        for name, kind, labels, value in rows:
            if f"# TYPE {name} {kind}" not in lines:
                lines.append(f"# TYPE {name} {kind}")
            lines.append(f"{name}{{{labels}}} {value}")
        return "\n".join(lines) + "\n"

    @property
    def models(self) -> tuple[str, ...]:
        return MODELS[self.layout]

    @property
    def _good(self) -> int:
        return self.ledger.ends["complete"] + self.ledger.ends["cancelled"]

    @property
    def _bad(self) -> int:
        return sum(self.ledger.ends[end] for end in _BAD_ENDS)

    def _server(self) -> dict[str, Any]:
        return {"name": "mock", "version": SERVER_VERSION, "extensions": ["model_repository", "statistics"]}

    def _model_statistics(self, name: str) -> dict[str, Any]:
        def duration(count: int) -> dict[str, int]:
            return {"count": count, "ns": 0}

        return {
            "name": name,
            "version": "1",
            "inference_count": self._good + self._bad,
            "execution_count": self._good + self._bad,
            "inference_stats": {"success": duration(self._good), "fail": duration(self._bad), "queue": duration(0)},
        }

    def _about_model(self, path: str) -> Answer:
        parts = path.removeprefix("/v2/models/").split("/")
        if not path.startswith("/v2/models/") or parts[0] not in self.models:
            return _json(HTTPStatus.NOT_FOUND, {"error": f"nothing at {path}"})
        known: dict[str, Callable[[], Any]] = {
            "": lambda: {"name": parts[0], "versions": ["1"], "platform": "mock", "inputs": [], "outputs": []},
            "ready": dict,
            "config": self.config,
            "stats": lambda: {"model_stats": [self._model_statistics(parts[0])]},
        }
        what = parts[1] if len(parts) > 1 else ""
        if what not in known:
            return _json(HTTPStatus.NOT_FOUND, {"error": f"nothing at {path}"})
        return _json(HTTPStatus.OK, known[what]())


def _json(status: int, body: Any) -> Answer:
    return status, "application/json", json.dumps(body).encode()
