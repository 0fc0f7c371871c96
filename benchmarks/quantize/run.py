"""What quantizing costs, ours and the peers' beside it in the same run: one command, one table.

    python benchmarks/quantize/run.py [--rows 160m-fp8 ...] [--modelopt VENV] [--llmcompressor VENV] [--work FOLDER]

Models have random weights and are made once in the work folder. Every figure is of a whole process, imports included.
CPU-seconds are the metric, for they change little with the load. Peers are measured where their environment is given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
from measure import Cost, measure

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case."""

    model: str
    scheme: str
    samples: int = 8
    length: int = 256

    @property
    def name(self) -> str:
        return f"{self.model}-{self.scheme}-{self.samples}x{self.length}"


ROWS = (
    *(Row(model="160m", scheme=scheme) for scheme in ("int8_wo", "fp8_pc_pt", "fp8", "int8_sq", "nvfp4", "int4_awq")),
    Row(model="160m", scheme="fp8", samples=32),
    Row(model="160m", scheme="int4_awq", samples=128, length=512),
    *(Row(model="1.1b", scheme=scheme, samples=32) for scheme in ("int8_wo", "fp8_pc_pt", "fp8", "int4_awq")),
    Row(model="1.1b-44", scheme="fp8", samples=32),
    Row(model="8b", scheme="fp8"),
    Row(model="8b-2", scheme="int4_awq"),
)


def main() -> None:
    """Measure each row and print the table as it grows."""
    options = _options()
    work = options.work or Path(tempfile.mkdtemp(prefix="quantize-benchmark-"))
    work.mkdir(parents=True, exist_ok=True)
    print(f"machine: {_processor()}, {os.cpu_count()} CPUs; load average {os.getloadavg()[0]:.1f}\n")
    print("| case | ours, CPU-s (wall s) | anon MB | bare forward, CPU-s | ModelOpt | llm-compressor |")
    print("|---|---|---|---|---|---|", flush=True)
    for row in ROWS:
        if any(row.name.startswith(prefix) for prefix in options.rows or ("",)):
            print(_line(row, options, work), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", nargs="*", help="beginnings of names such as 160m-fp8-8x256; default: all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of our forward pass; default: as measured")
    parser.add_argument("--bare", action="store_true", help="measure a bare forward pass of transformers too")
    parser.add_argument("--modelopt", type=Path, help="an environment with nvidia-modelopt[hf]")
    parser.add_argument("--llmcompressor", type=Path, help="an environment with llmcompressor")
    parser.add_argument("--work", type=Path, help="keeps the models; default: a temporary folder")
    return parser.parse_args()


def _line(row: Row, options: argparse.Namespace, work: Path) -> str:
    model, ids = models.make(row.model, work / "models"), work / f"ids-{row.samples}x{row.length}.npy"
    np.save(ids, np.random.default_rng(0).integers(0, 32_000, (row.samples, row.length)))
    arguments = [str(model), row.scheme, str(ids)]
    dtype = ["--dtype", options.dtype] if options.dtype else []
    ours = _run(row, "ours", [sys.executable, str(HERE / "ours.py"), *arguments], dtype, work)
    bare = "–"
    if options.bare and row.scheme not in ("int8_wo", "fp8_pc_pt"):
        forward = [sys.executable, str(HERE / "forward.py"), str(model), str(ids), options.dtype or "float32"]
        bare = f"{measure(forward, log=work / 'forward.log').cpu_s:.1f}"
    cells = [f"{ours.cpu_s:.1f} ({ours.wall_s:.0f})" + (" failed" if ours.failed else ""), f"{ours.anon_mb:.0f}", bare]
    for name, environment in (("modelopt", options.modelopt), ("llmcompressor", options.llmcompressor)):
        if environment is None:
            cells.append("–")
            continue
        program = [str(environment / "bin" / "python"), str(HERE / "peers" / f"{name}_export.py"), *arguments]
        peer = _run(row, name, program, [], work)
        cells.append(
            "failed" if peer.failed else f"{peer.cpu_s:.1f} = {peer.cpu_s / ours.cpu_s:.1f}×, {peer.anon_mb:.0f} MB"
        )
    return f"| {row.name} | " + " | ".join(cells) + " |"


def _run(row: Row, tool: str, command: list[str], rest: list[str], work: Path) -> Cost:
    out = work / f"out-{tool}"
    shutil.rmtree(out, ignore_errors=True)
    return measure(
        [*command, str(out), *rest],
        log=work / f"{row.name}-{tool}.log",
        environment={"PYTHONPATH": str(HERE.parents[1])} if tool == "ours" else {"HF_HUB_OFFLINE": "1"},
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


if __name__ == "__main__":
    main()
