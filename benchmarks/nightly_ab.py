"""Does the nightly's comparison keep its promise: a build slower by 15 % is kept out, an identical one never is.

    python benchmarks/nightly_ab.py [--runs 20] [--only mock|served|damaged] [--minutes 10]

mock: mock servers with ITL 20 ms, against 20 and 23 ms. served: examples/tiny-llama on a real tritonserver, against
itself and against a copy whose MLPs are padded with zeros, which says the same and takes longer; how much longer is
measured beside, by the CPU time of the engine alone. damaged: its int8 checkpoint with the scales of a layer or of
a linear doubled, one after the other. Needs a machine with nothing else to do; the load average is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from builder import manifest as manifests
from builder.store import Store
from serving.client.request import Endpoint
from serving.cpu_backend.engine import Engine
from serving.cpu_backend.flight import Delta
from serving.cpu_backend.pipeline import EngineOptions
from serving.cpu_backend.request import GenerationRequest
from serving.load.lengths import Lengths
from serving.load.workload import Synthetic
from serving.mock.behaviour import Behaviour
from serving.mock.server import mock_server
from serving.nightly import ab
from serving.nightly.ab import perplexity, quality
from serving.nightly.ab.contest import Comparison, contest, decide
from serving.nightly.ab.load import Load
from serving.nightly.ab.rounds import Rounds
from trtllm_kit.console import Silent

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "tiny-llama"
COMMAND = str(Path(sys.executable).with_name("trtllm-kit"))
PROMPT_TOKENS, OUTPUT_TOKENS = 64, 32


def main() -> None:
    """Measure what was asked for and print a line for each run and one for each table."""
    options = _options()
    print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as scratch:
        for name in [options.only] if options.only else _PARTS:
            _PARTS[name](options, Path(scratch))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", choices=sorted(_PARTS))
    parser.add_argument("--minutes", type=float, default=10.0, help="most time of one comparison")
    parser.add_argument(
        "--padded", type=int, default=1248, help="intermediate size of the slower copy; 1024 is its own"
    )
    return parser.parse_args()


def _mock(options: argparse.Namespace, scratch: Path) -> None:
    for name, itl_ms in (("mock, ITL 23 instead of 20 ms", 23.0), ("mock, identical", 20.0)):
        _tally(name, options.runs, lambda seed, itl_ms=itl_ms: _mock_run(itl_ms, seed, options.minutes, scratch))


def _mock_run(itl_ms: float, seed: int, minutes: float, scratch: Path) -> Comparison:
    rule = ab.Rule(minutes=minutes, seed=seed)
    words = Synthetic(input_len=Lengths(kind="", first=16), output_len=Lengths(kind="", first=16), seed=seed)
    rounds = Rounds(
        candidate=_Mock("candidate", Behaviour(ttft_ms=100, itl_ms=itl_ms)),
        incumbent=_Mock("incumbent", Behaviour(ttft_ms=100, itl_ms=20)),
        load=Load(words, concurrency=4, stream=True, seed=seed, scratch=scratch / "load"),
        requests=4,
        blocks=2,
        at_once=True,
    )
    return contest(rounds, rule, None, Silent())


@dataclass
class _Mock:
    """A mock server in a process of its own, as a contender."""

    name: str
    behaviour: Behaviour
    endpoint: Endpoint | None = None
    process: BaseProcess | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def start(self) -> float:
        began = time.monotonic()
        ours, theirs = _PROCESSES.Pipe()
        self.process = _PROCESSES.Process(target=_serve, args=(self.behaviour, theirs), daemon=True)
        self.process.start()
        self.endpoint = ours.recv()
        return time.monotonic() - began

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.endpoint = self.process = None

    def explain(self, happened: str) -> str:
        return happened


def _serve(behaviour: Behaviour, told: Connection) -> None:
    async def run() -> None:
        async with mock_server(behaviour) as addresses:
            told.send(Endpoint(http=addresses.http, grpc=str(addresses.grpc)))
            await asyncio.Event().wait()

    asyncio.run(run())


def _served(options: argparse.Namespace, scratch: Path) -> None:
    slower = _padded(scratch / "padded", options.padded)
    artifacts = [_build(scratch, checkpoint, "bf16") for checkpoint in (EXAMPLE, slower)]
    store, rule = (
        Store(scratch / "store"),
        ab.Rule(input_len=PROMPT_TOKENS, output_len=OUTPUT_TOKENS, minutes=options.minutes),
    )
    for name, candidate in (("served, identical", artifacts[0]), ("served, padded", artifacts[1])):

        def run(seed: int, candidate: Path = candidate) -> Comparison:
            return ab.compare(
                candidate,
                artifacts[0],
                rule=rule.model_copy(update={"seed": seed}),
                store=store,
                candidate_checkpoint=None,
                incumbent_checkpoint=None,
                work=scratch / "work",
                talk=Silent(),
            )

        _tally(name, options.runs, run)
    for number, root in enumerate(artifacts):
        print(f"engine {number}: {_engine_ms(root):.1f} ms of CPU for 4 × ({PROMPT_TOKENS} in, {OUTPUT_TOKENS} out)")


def _damaged(options: argparse.Namespace, scratch: Path) -> None:
    """The scales of every layer, then of every linear, doubled; and an undamaged copy."""
    from safetensors.torch import load_file, save_file

    manifest = manifests.load(_build(scratch, EXAMPLE, "int8_wo"))
    (record,) = (scratch / "store" / "stages" / "quantize").glob("*/hf_quant_config.json")
    sound, copy = record.parent, scratch / "copy"
    tensors = load_file(sound / "model.safetensors")
    scales = [name for name in tensors if name.endswith(".weight_scale")]
    layers = sorted({name.partition(".self_attn")[0].partition(".mlp")[0] for name in scales})

    def judged(doubled: str | None, limit: float | None) -> Comparison:
        shutil.copytree(sound, copy, dirs_exist_ok=True)
        hit = [name for name in scales if doubled is not None and name.startswith(doubled)]
        changed = {name: 2 * value if name in hit else value for name, value in tensors.items()}
        save_file(changed, copy / "model.safetensors", metadata={"format": "pt"})
        figures = perplexity.judge(
            copy,
            sound,
            divergence_limit=limit,
            tokenizer_dir=EXAMPLE,
            rule=ab.Rule(),
            work=scratch / "states",
            talk=Silent(),
        )
        return Comparison(decision=decide(figures), reasons=("; ".join(map(quality.words, figures)),), figures=figures)

    same = perplexity.divergence_limit(manifest, manifest)
    for kind, limit in (("of the same model", same), ("as a new revision", None)):
        _tally(f"checkpoint {kind}, undamaged", 1, lambda _, limit=limit: judged(None, limit))
        _tally(f"checkpoint {kind}, a layer", len(layers), lambda n, limit=limit: judged(f"{layers[n]}.", limit))
        count = min(options.runs, len(scales))
        _tally(f"checkpoint {kind}, a linear", count, lambda n, limit=limit: judged(scales[n], limit))


def _tally(name: str, runs: int, run: Callable[[int], Comparison]) -> None:
    decisions: Counter[str] = Counter()
    for seed in range(runs):
        began = time.monotonic()
        found = run(seed)
        decisions[found.decision] += 1
        print(f"  {name} {seed}: {found.decision}, {time.monotonic() - began:.0f} s: {found.reasons[0]}", flush=True)
    print(f"{name}: " + ", ".join(f"{count} of {runs} {decision}" for decision, count in decisions.items()), flush=True)


def _build(scratch: Path, checkpoint: Path, precision: str) -> Path:
    """The artifact of a checkpoint for the cpu runtime."""
    folder = scratch / f"{checkpoint.name}-{precision}"
    folder.mkdir()
    environment = {**os.environ, "TRTLLM_KIT_STORE": str(scratch / "store")}
    for line in (("init", "--model", str(checkpoint)), ("build", "model", "--sku", "cpu", "--precision", precision)):
        done = subprocess.run([COMMAND, *line], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return Path(done.stdout.splitlines()[-1])


def _padded(folder: Path, size: int) -> Path:
    """The example with zeros added to its MLPs: the same function by more arithmetic."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(EXAMPLE, folder)
    config = json.loads((folder / "config.json").read_text())
    more = size - config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": size}))
    pads = {"gate_proj": (0, 0, 0, more), "up_proj": (0, 0, 0, more), "down_proj": (0, more)}
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        pad = next((pad for part, pad in pads.items() if part in name), (0, 0))
        tensors[name] = torch.nn.functional.pad(tensor, pad)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _engine_ms(root: Path) -> float:
    """CPU time of the engine alone for one batch: the least of many, which a busy machine disturbs least."""
    source, least_s = random.Random(0), math.inf
    with Engine.open(root / "engine", EngineOptions(threads=1)) as engine:
        for _ in range(15):
            ended = threading.Semaphore(0)

            def hear(news: Delta, ended: threading.Semaphore = ended) -> None:
                if news.finish is not None:
                    ended.release()

            began = time.process_time()
            for _ in range(4):
                ids = source.choices(range(3, 2000), k=PROMPT_TOKENS)
                engine.submit(GenerationRequest(input_ids=ids, max_tokens=OUTPUT_TOKENS, temperature=0.0), hear)
            for _ in range(4):
                ended.acquire()
            least_s = min(least_s, time.process_time() - began)
    return 1e3 * least_s


_PARTS = {"mock": _mock, "served": _served, "damaged": _damaged}
# Forked, so that a start costs no imports.
_PROCESSES = multiprocessing.get_context("fork")

if __name__ == "__main__":
    main()
