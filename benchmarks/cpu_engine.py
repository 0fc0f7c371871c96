"""What in-flight batching is worth on the cpu runtime, and what Triton costs on top: one command, one table.

    python benchmarks/cpu_engine.py [--checkpoint FOLDER] [--repeats 3] [--requests 48] [--threads 1]

Makes a Llama of 30M and one of 5M parameters with random weights (no download), or takes a checkpoint folder in the
unified Hugging Face layout. All loads are the same requests: different prompts of 32 tokens, 8 to 128 new tokens,
greedy, no end token. Triton's cost is the CPU time of the server's whole process tree, so the client does not count.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpu_artifact import CONCURRENCY, OUTPUT_TOKENS, PROMPT_TOKENS, checkpoints, write_artifact

from builder.compile.openvino_ir.settings import runtime_version
from serving.cpu_backend.engine import Engine
from serving.cpu_backend.flight import Delta
from serving.cpu_backend.pipeline import EngineOptions
from serving.cpu_backend.request import GenerationRequest
from serving.deploy.server import RunningServer, running_server
from serving.deploy.tritonserver import cpu_backend_files
from trtllm_kit.files import read_json


@dataclass(frozen=True)
class Job:
    """One request of the load."""

    ids: list[int]
    tokens: int


@dataclass(frozen=True)
class Cost:
    """What one pass over the load took."""

    tokens: int
    wall_s: float
    cpu_s: float


Submit = Callable[[Job, Callable[[int, bool], None]], None]
"""Start a job; the callback hears (new tokens, whether it was the last news)."""


def main() -> None:
    """Measure each model and print its table."""
    options = _options()
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {_cpu_name()};", end=" ")
    print(f"load average {os.getloadavg()[0]:.1f}; openvino-genai {runtime_version()}; threads {options.threads}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, checkpoint in checkpoints(options.checkpoint, Path(scratch)):
            _measure(name, write_artifact(checkpoint, Path(scratch) / f"{name}-artifact"), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder instead of the two random models")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1, help="compute threads of the engine")
    return parser.parse_args()


def _measure(name: str, root: Path, options: argparse.Namespace) -> None:
    vocabulary = read_json(root / "engine" / "config.json", "config.json")["vocab_size"]
    costs: dict[str, list[Cost]] = {}
    with (
        Engine.open(root / "engine", EngineOptions(threads=options.threads)) as engine,
        _server(root, options.threads) as server,
        _triton(server) as triton,
    ):
        pid = server.process.pid
        loads: dict[str, tuple[Submit, int, Callable[[], float]]] = {
            "engine, one at a time": (_direct(engine, streaming=False), 1, time.process_time),
            "engine": (_direct(engine, streaming=False), CONCURRENCY, time.process_time),
            "engine, streaming": (_direct(engine, streaming=True), CONCURRENCY, time.process_time),
            "tritonserver": (triton(streaming=False), CONCURRENCY, lambda: _tree_cpu_s(pid)),
            "tritonserver, streaming": (triton(streaming=True), CONCURRENCY, lambda: _tree_cpu_s(pid)),
        }
        for repeat in range(-1, options.repeats):  # the first pass warms up
            for number, (label, (submit, concurrency, clock)) in enumerate(loads.items()):
                cost = _run(_load(options.requests, vocabulary, 100 * repeat + number), submit, concurrency, clock)
                costs.setdefault(label, []).append(cost)
    _print(name, {label: passes[1:] for label, passes in costs.items()})


def _print(name: str, costs: dict[str, list[Cost]]) -> None:
    def median(label: str, value: Callable[[Cost], float]) -> float:
        return statistics.median(value(cost) for cost in costs[label])

    print(f"\n{name}: medians of {len(costs['engine'])} passes of {costs['engine'][0].tokens} tokens")
    print(f"  {'':26}{'concurrency':>12}{'tokens/s':>10}{'CPU ms/token':>14}")
    for label in costs:
        speed, cpu = median(label, lambda c: c.tokens / c.wall_s), median(label, lambda c: 1000 * c.cpu_s / c.tokens)
        print(f"  {label:26}{1 if 'one' in label else CONCURRENCY:>12}{speed:>10.0f}{cpu:>14.3f}")
    gains = [many.wall_s / many.tokens for many in costs["engine"]]
    alone = [one.wall_s / one.tokens for one in costs["engine, one at a time"]]
    gain = statistics.median(one / many for one, many in zip(alone, gains, strict=True))
    print(f"  in-flight batching: {gain:.1f} times the tokens/s of one request at a time")
    for suffix in ("", ", streaming"):
        pairs = zip(costs["tritonserver" + suffix], costs["engine" + suffix], strict=True)
        added = statistics.median((t.cpu_s / t.tokens) / (e.cpu_s / e.tokens) - 1 for t, e in pairs)
        print(f"  Triton adds{suffix}: {added:+.0%} CPU per token")


def _load(count: int, vocabulary: int, seed: int) -> list[Job]:
    """The same lengths in every pass, spread evenly and shuffled; other prompts, so that no prefix is reused."""
    low, high = OUTPUT_TOKENS
    lengths = [low + (high - low) * index // max(count - 1, 1) for index in range(count)]
    random.Random(0).shuffle(lengths)
    prompts = random.Random(seed)
    return [Job([prompts.randrange(3, vocabulary) for _ in range(PROMPT_TOKENS)], length) for length in lengths]


def _run(jobs: list[Job], submit: Submit, concurrency: int, clock: Callable[[], float]) -> Cost:
    """Keep `concurrency` jobs in flight until all are done."""
    slots, received = threading.Semaphore(concurrency), [0]

    def heard(tokens: int, last: bool) -> None:
        received[0] += tokens
        if last:
            slots.release()

    wall, cpu = time.perf_counter(), clock()
    for job in jobs:
        slots.acquire()
        submit(job, heard)
    for _ in range(concurrency):
        slots.acquire()
    cost = Cost(received[0], time.perf_counter() - wall, clock() - cpu)
    if cost.tokens != sum(job.tokens for job in jobs):
        raise SystemExit(f"{cost.tokens} tokens came back, {sum(job.tokens for job in jobs)} were asked for")
    return cost


def _direct(engine: Engine, *, streaming: bool) -> Submit:
    def submit(job: Job, heard: Callable[[int, bool], None]) -> None:
        def listen(delta: Delta) -> None:
            heard(len(delta.tokens), delta.finish is not None)

        engine.submit(GenerationRequest(input_ids=job.ids, max_tokens=job.tokens, streaming=streaming), listen)

    return submit


@contextmanager
def _triton(server: RunningServer) -> Iterator[Callable[..., Submit]]:
    """A gRPC stream to the server that carries all requests."""
    import tritonclient.grpc as grpc

    client = grpc.InferenceServerClient(server.grpc_address)
    waiting: dict[str, Callable[[int, bool], None]] = {}

    def receive(result: Any, error: Any) -> None:
        if error is not None:
            print(f"error: {error}")
            os._exit(1)
        response = result.get_response()
        last = response.parameters["triton_final_response"].bool_param
        waiting[response.id](int(result.as_numpy("sequence_length").flat[0]), last)

    def make(*, streaming: bool) -> Submit:
        def submit(job: Job, heard: Callable[[int, bool], None]) -> None:
            name = str(len(waiting))
            waiting[name] = heard
            inputs = _inputs(grpc, job, streaming)
            client.async_stream_infer("tensorrt_llm", inputs, request_id=name, enable_empty_final_response=True)

        return submit

    client.start_stream(receive)
    try:
        yield make
    finally:
        client.stop_stream()
        client.close()


def _inputs(grpc: Any, job: Job, streaming: bool) -> list[Any]:
    import numpy as np

    values: dict[str, list[Any]] = {
        "input_ids": job.ids,
        "input_lengths": [len(job.ids)],
        "request_output_len": [job.tokens],
    }
    inputs = []
    for name, value in [*values.items(), ("streaming", [streaming])]:
        kind, dtype = ("BOOL", np.bool_) if name == "streaming" else ("INT32", np.int32)
        inputs.append(grpc.InferInput(name, [1, len(value)], kind))
        inputs[-1].set_data_from_numpy(np.array([value], dtype))
    return inputs


@contextmanager
def _server(root: Path, threads: int) -> Iterator[RunningServer]:
    environment = {"TRTLLM_KIT_CPU_THREADS": str(threads)}
    with running_server(root, cpu_backend=cpu_backend_files(), environment=environment) as server:
        yield server


def _tree_cpu_s(pid: int) -> float:
    """User and system time of a process and all its living descendants."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # gone meanwhile
            continue
        process = int(stat.parent.name)
        ticks[process] = int(fields[11]) + int(fields[12])
        children.setdefault(int(fields[1]), []).append(process)
    total, todo = 0, [pid]
    while todo:
        process = todo.pop()
        total += ticks.get(process, 0)
        todo += children.get(process, [])
    return total / os.sysconf("SC_CLK_TCK")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    main()
