"""How long a plan takes: `trtllm-kit plan --sku any` for a 70B model as a whole process, and one prediction.

python benchmarks/plan.py [--repeat 7]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from profiles import performance
from profiles.capacity import Demand, Space, configurations
from profiles.model_shape import find as find_model
from profiles.skus import find as find_sku

COMMAND = str(Path(sys.executable).with_name("trtllm-kit"))
PLAN = (
    "plan",
    "--model",
    "llama-3.1-70b",
    "--sku",
    "any",
    "--isl",
    "2048",
    "--osl",
    "512",
    "--ttft",
    "1000",
    "--tpot",
    "40",
)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7, help="runs; the median counts")
    repeat = parser.parse_args().repeat
    rows = json.loads(subprocess.run([COMMAND, *PLAN, "--output", "json"], check=True, capture_output=True).stdout)
    count = len(rows["candidates"])
    print(
        f"| whole process, 70B, all SKUs, slices and precisions | candidates | median s of {repeat} | worst s | CPU s |"
    )
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name, extra in (("`plan --sku any`", ()), ("with `--plot`", ("--plot", f"{scratch}/plan.html"))):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = [_run(*PLAN, *extra) for _ in range(repeat)]
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / repeat
            print(f"| {name} | {count:,} | {statistics.median(seconds):.2f} | {max(seconds):.2f} | {cpu_s:.2f} |")
    print()
    print("| one prediction | median ms | worst ms |")
    print("|---|---|---|")
    for name, timings in _predictions().items():
        print(f"| `{name}` | {statistics.median(timings):.3f} | {max(timings):.3f} |")


def _run(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([COMMAND, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def _predictions() -> dict[str, list[float]]:
    """Milliseconds for each configuration of an H100 and an L40S."""
    space = Space(shape=find_model("llama-3.1-70b"), skus=[find_sku("h100_sxm"), find_sku("l40s")])
    found = list(configurations(space, Demand(isl=2048, osl=512)))
    timings: dict[str, list[float]] = {"max_throughput": [], "at_concurrency": []}
    for one in found:
        started = time.perf_counter()
        performance.max_throughput(one.setup, 2048, 512)
        between = time.perf_counter()
        performance.at_concurrency(one.setup, 2048, 512, 64)
        timings["max_throughput"].append(1e3 * (between - started))
        timings["at_concurrency"].append(1e3 * (time.perf_counter() - between))
    return timings


if __name__ == "__main__":
    main()
