"""Other load generators, one row each: the command for so many requests, and where it puts its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, float]
TOKENIZER = Path(__file__).resolve().parents[2] / "examples" / "tiny-llama"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """`command` gets (binary, HTTP address, gRPC address, requests, scratch); `read` (scratch, stdout)."""

    command: Callable[[str, str, str, int, Path], list[str]]
    read: Callable[[Path, str], Figures]


def _aiperf(path: str, http: str, grpc: str, requests: int, scratch: Path) -> list[str]:
    return [
        *(path, "profile", "-m", "ensemble", "--url", f"http://{http}", "--endpoint-type", "chat", "--streaming"),
        *("--tokenizer", str(TOKENIZER), "--concurrency", "128", "--request-count", str(requests)),
        *("--synthetic-input-tokens-mean", "32", "--output-tokens-mean", "64", "--output-tokens-stddev", "0"),
        *("--extra-inputs", "ignore_eos:true", "--ui", "none", "--output-artifact-dir", str(scratch / "aiperf")),
    ]


def _read_aiperf(scratch: Path, stdout: str) -> Figures:
    told = json.loads(next((scratch / "aiperf").rglob("profile_export_aiperf.json")).read_text())
    names = {"ttft": "time_to_first_token", "itl": "inter_token_latency"}
    return {
        f"{short}_{share}": told[name][f"p{round(share * 100)}"]
        for short, name in names.items()
        for share in (0.5, 0.99)
        if name in told
    }


def _guidellm(path: str, http: str, grpc: str, requests: int, scratch: Path) -> list[str]:
    return [
        *(path, "run", "--backend", f"kind=openai_http,target=http://{http},model=ensemble,validate_backend=false"),
        *("--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}"),
        *("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=64"),
        *("--profile", "kind=concurrent,streams=128", "--constraint", f"kind=max_requests,count={requests}"),
    ]


def _read_guidellm(scratch: Path, stdout: str) -> Figures:
    file = next(iter(scratch.rglob("*.json")), None)
    if file is None:
        return {}
    metrics: dict[str, Any] = json.loads(file.read_text())["benchmarks"][0]["metrics"]
    names = {"ttft": "time_to_first_token_ms", "itl": "inter_token_latency_ms"}
    found: Figures = {}
    for short, name in names.items():
        percentiles = metrics[name]["successful"]["percentiles"]
        found |= {f"{short}_0.5": percentiles["p50"], f"{short}_0.99": percentiles["p99"]}
    return found


def _perf_analyzer(path: str, http: str, grpc: str, requests: int, scratch: Path) -> list[str]:
    inputs = {"data": [{"text_input": ["word " * 32], "max_tokens": [64], "stream": [True]}]}
    (scratch / "inputs.json").write_text(json.dumps(inputs))
    return [
        *(path, "-m", "ensemble", "-u", grpc, "-i", "grpc", "--streaming", "--async"),
        *("--input-data", str(scratch / "inputs.json"), "--concurrency-range", "128", "--request-count", str(requests)),
        *("--profile-export-file", str(scratch / "export.json")),
    ]


def _read_perf_analyzer(scratch: Path, stdout: str) -> Figures:
    """From its export, which has every response's time; its own report has whole requests only."""
    export = json.loads((scratch / "export.json").read_text())
    requests = [row for experiment in export["experiments"] for row in experiment["requests"]]
    ttft = sorted((row["response_timestamps"][0] - row["timestamp"]) / 1e6 for row in requests)
    gaps = sorted(
        (later - sooner) / 1e6
        for row in requests
        for sooner, later in zip(row["response_timestamps"], row["response_timestamps"][1:-1], strict=False)
    )
    return {
        f"{name}_{share}": values[int(len(values) * share)]
        for name, values in (("ttft", ttft), ("itl", gaps))
        for share in (0.5, 0.99)
    }


PEERS: Mapping[str, Peer] = {
    "aiperf": Peer(command=_aiperf, read=_read_aiperf),
    "guidellm": Peer(command=_guidellm, read=_read_guidellm),
    "perf_analyzer": Peer(command=_perf_analyzer, read=_read_perf_analyzer),
}
