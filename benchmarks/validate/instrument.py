"""Is the load generator to be believed, and what does it cost: against the mock server, whose ledger is the truth.

    python benchmarks/validate/instrument.py [--repeats 3] [--requests 1280] [--peer aiperf=PATH ...]

The mock is asked for TTFT 150 ms and ITL 20 ms; 128 requests at once, 64 tokens each. Truth: quantiles that the client
reports over those of the mock's ledger. Cost: streamed tokens per CPU-second of the client, all in all and, as for the
peers, without its start and its summary: from what a run takes more than one of a quarter of its requests. `--peer`
runs another load generator in the same way; NAME is a row of peers.PEERS. `--large` adds four times the
rate, 2,000 streams at once and a million tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import PEERS

from serving.load.records import read_records

TRANSPORTS = ("engine-http", "openai-completions", "openai-chat", "engine-grpc")
CONCURRENCY, TOKENS = 128, 64
QUANTILES = (0.5, 0.99)


@dataclass(frozen=True)
class Mock:
    """A running mock and where it writes its ledger when it ends."""

    http: str
    grpc: str


def main() -> None:
    """Measure and print."""
    options = _options()
    print(
        f"machine: {_cpu_name()}, {os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}; medians of {options.repeats}"
    )
    columns = ("TTFT p50", "TTFT p99", "ITL p50", "ITL p99")
    print(
        f"{'':20}{'tokens per CPU-s':>18}" + "".join(f"{name:>24}" for name in columns) + f"{'waited':>8}{'start':>8}"
    )
    print(f"{'':20}{'all':>9}{'streaming':>11}" + f"{'client/mock ms':>24}" * 4 + f"{'for CPU':>8}{'s':>8}")
    for transport in TRANSPORTS:
        _show(transport, [_both(transport, options.requests) for _ in range(options.repeats)])
    for given in options.peer:
        name, _, path = given.partition("=")
        _show(name, [_peer(name, path, options.requests) for _ in range(options.repeats)])
    if options.large:
        _large()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1280)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help=f"one of {', '.join(PEERS)}")
    parser.add_argument("--large", action="store_true")
    return parser.parse_args()


@contextlib.contextmanager
def _mock(ledger: Path, *options: str) -> Iterator[Mock]:
    command = [str(Path(sys.executable).with_name("trtllm-kit")), "mock-server", "--ledger", str(ledger)]
    process = subprocess.Popen(
        [*command, "--http-port", "0", "--grpc-port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Mock(**json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait()


def _ours(transport: str, requests: int, tokens: int, concurrency: int, itl_ms: float = 20.0) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        ledger, folder = Path(scratch) / "ledger.jsonl", Path(scratch) / "run"
        with _mock(ledger, "--ttft-ms", "150", "--itl-ms", str(itl_ms)) as mock:
            program = str(Path(__file__).with_name("one_load.py"))
            asked = [transport, mock.http, mock.grpc, str(concurrency), str(requests), str(tokens), str(folder)]
            started_ns = time.perf_counter_ns()
            done = subprocess.run([sys.executable, program, *asked], stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout)
        entries = [json.loads(line) for line in ledger.read_text().splitlines()]
        records = [record for record in read_records(folder) if record.error is None]
    return {
        **found,
        "tokens_per_cpu_s": found["tokens"] / found["cpu_s"],
        "start_s": (min(entry["received_ns"] for entry in entries) - started_ns) / 1e9,
        "waited": found["client"]["waited_share"],
        "ttft": _pairs([r.ttft_ns / 1e6 for r in records if r.ttft_ns], _ledger_ttft(entries)),
        "itl": _pairs([gap / 1e3 for record in records for gap in record.gaps_us], _ledger_itl(entries)),
    }


def _both(transport: str, requests: int) -> dict[str, Any]:
    """One run, with the cost of a token from what it takes more than a shorter one."""
    short, whole = (_ours(transport, count, TOKENS, CONCURRENCY) for count in (requests // 4, requests))
    return {**whole, "streamed_per_cpu_s": (whole["tokens"] - short["tokens"]) / (whole["cpu_s"] - short["cpu_s"])}


def _peer(name: str, path: str, requests: int) -> dict[str, Any]:
    """CPU per token from the difference of two runs, so that its start is not counted."""
    peer = PEERS[name]
    costs, last = [], {}
    for count in (requests // 4, requests):
        with tempfile.TemporaryDirectory() as scratch:
            ledger = Path(scratch) / "ledger.jsonl"
            with _mock(ledger, "--ttft-ms", "150", "--itl-ms", "20") as mock:
                command = peer.command(path, mock.http, mock.grpc, count, Path(scratch))
                started_ns, before = time.perf_counter_ns(), os.times()
                done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=900)
                after = os.times()
            if done.returncode:
                raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            entries = [json.loads(line) for line in ledger.read_text().splitlines()]
            cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
            costs.append((sum(sum(entry["tokens"]) for entry in entries), cpu_s))
            told = peer.read(Path(scratch), done.stdout)
            last = {
                "start_s": (min(entry["received_ns"] for entry in entries) - started_ns) / 1e9,
                "ttft": [(told.get(f"ttft_{q}"), _quantile(_ledger_ttft(entries), q)) for q in QUANTILES],
                "itl": [(told.get(f"itl_{q}"), _quantile(_ledger_itl(entries), q)) for q in QUANTILES],
            }
    (few, cheap), (many, dear) = costs
    return {**last, "tokens_per_cpu_s": None, "streamed_per_cpu_s": (many - few) / (dear - cheap), "waited": None}


def _show(name: str, runs: list[dict[str, Any]]) -> None:
    def median(values: list[Any]) -> float:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else float("nan")

    cells = []
    for measure in ("ttft", "itl"):
        for at in range(len(QUANTILES)):
            client, mock = (median([run[measure][at][side] for run in runs]) for side in (0, 1))
            cells.append(f"{client:.2f}/{mock:.2f} {client / mock - 1:+.1%}")
    waited = median([run["waited"] for run in runs])
    print(
        f"{name:20}{median([run['tokens_per_cpu_s'] for run in runs]):>9,.0f}"
        + f"{median([run['streamed_per_cpu_s'] for run in runs]):>11,.0f}"
        + "".join(f"{c:>24}" for c in cells)
        + f"{waited:>8.0%}{median([run['start_s'] for run in runs]):>8.2f}",
        flush=True,
    )


def _large() -> None:
    for transport in TRANSPORTS:
        run = _ours(transport, 2400, 128, 256, itl_ms=10.0)
        print(f"25,600 tokens/s, {transport}: {run['tokens_per_cpu_s']:,.0f} tokens/CPU-s")
    for transport in ("engine-http", "engine-grpc"):
        run = _ours(transport, 4000, 64, 2000, itl_ms=400.0)
        print(
            f"2,000 streams at once, {transport}: {run['tokens']:,.0f} tokens, errors {run['errors'] or 'none'}, "
            f"{run['rss_mb']:.0f} MB"
        )
    for requests in (800, 8000):
        run = _ours("engine-http", requests, 128, 256, itl_ms=10.0)
        print(f"{run['tokens']:,.0f} tokens: {run['rss_mb']:.0f} MB, {run['tokens_per_cpu_s']:,.0f} tokens/CPU-s")


def _ledger_ttft(entries: Sequence[dict[str, Any]]) -> list[float]:
    return [(entry["sent_ns"][0] - entry["received_ns"]) / 1e6 for entry in entries if entry["sent_ns"]]


def _ledger_itl(entries: Sequence[dict[str, Any]]) -> list[float]:
    return [(b - a) / 1e6 for entry in entries for a, b in zip(entry["sent_ns"], entry["sent_ns"][1:], strict=False)]


def _pairs(client: list[float], mock: list[float]) -> list[tuple[float, float]]:
    return [(_quantile(client, share), _quantile(mock, share)) for share in QUANTILES]


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    main()
