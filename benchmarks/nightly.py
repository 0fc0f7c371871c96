"""What a night costs: 200 unchanged cells as a whole process, and 6 cells at once against one after another.

python benchmarks/nightly.py [--repeat 5] [--cells 200] [--work FOLDER]

Run it on a quiet machine: other work on it slows two cells at once more than one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from builder.depot.records import CellName, CellRecord, Entry
from builder.store import Store
from serving.nightly.plan import pipeline_of
from serving.nightly.session import Session
from serving.nightly.work import inputs_of
from trtllm_kit.console import Silent

COMMAND = str(Path(sys.executable).with_name("trtllm-kit"))
MODEL = Path(__file__).resolve().parents[1] / "examples" / "tiny-llama"
SKUS = ("cpu", "h100_sxm", "l40s", "a100_sxm_80gb")
PRECISIONS = ("bf16", "fp16", "int8_wo", "int4_wo", "int4_awq")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="runs; the median counts")
    parser.add_argument("--cells", type=int, default=200, help="unchanged cells")
    parser.add_argument("--work", type=Path, help="where to work  [default: a temporary folder]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        unchanged(work / "unchanged", options.cells, options.repeat)
        print()
        at_once(work / "at_once", options.repeat)


def unchanged(work: Path, cells: int, repeat: int) -> None:
    """A matrix all of whose cells are in service as they are."""
    names = [f"m{number}" for number in range(cells // (len(SKUS) * len(PRECISIONS)))]
    matrix = {"name": names, "sku": list(SKUS), "precision": list(PRECISIONS)}
    session = write(work, {"base": {"model": str(MODEL)}, "matrix": matrix})
    put_in_service(session)
    print(
        f"| {len(names) * len(SKUS) * len(PRECISIONS)} cells, none changed | median s of {repeat} | worst s | CPU s |"
    )
    print("|---|---|---|---|")
    for command in ("plan", "run"):
        seconds, cpu_s = zip(*(timed(work, "nightly", command) for _ in range(repeat)), strict=True)
        middle = statistics.median
        print(f"| `nightly {command}` | {middle(seconds):.2f} | {max(seconds):.2f} | {middle(cpu_s):.2f} |")


def at_once(work: Path, repeat: int) -> None:
    """Six first builds of the example on the cpu runtime, with their first comparison."""
    tree = {"base": {"model": str(MODEL)}, "matrix": {"name": [f"m{n}" for n in range(6)], "sku": ["cpu"]}}
    print(f"| 6 cells on {len(os.sched_getaffinity(0))} cores | median s of {repeat} | CPU s |")
    print("|---|---|---|")
    medians = {}
    rows: dict[str, list[tuple[float, float]]] = {"1": [], "auto": []}
    for number in range(repeat):
        for jobs in rows:  # one after the other, so that a slow minute of the machine meets both
            folder = work / f"{jobs}-{number}"
            write(folder, {**tree, "executor": {"jobs": int(jobs) if jobs.isdigit() else jobs}})
            rows[jobs].append(timed(folder, "nightly", "run"))
    for jobs, timings in rows.items():
        seconds, cpu_s = zip(*timings, strict=True)
        medians[jobs] = statistics.median(seconds)
        print(f"| `jobs: {jobs}` | {medians[jobs]:.1f} | {statistics.median(cpu_s):.1f} |")
    print(f"\n{medians['1'] / medians['auto']:.2f} times faster")


def write(work: Path, tree: dict[str, object]) -> Session:
    """A folder with a matrix, and its store."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "nightly.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return Session(path=work / "nightly.yaml", store=Store(work / "store"), talk=Silent())


def put_in_service(session: Session) -> None:
    """Every cell's record as after a night that built it; the artifact is one for all, as its content is not read."""
    environment = {**os.environ, "TRTLLM_KIT_STORE": str(session.store.root)}
    subprocess.run(
        [COMMAND, "build", "model", "--model", str(MODEL), "--sku", "cpu", "--output", "json"],
        check=True,
        capture_output=True,
        env=environment,
        cwd=session.store.root.parent,
    )
    artifact = session.store.find_artifact(None)
    with session.depot.publish(artifact, talk=Silent()) as upload:
        for row in session.plan().work:
            assert row.cell.plan is not None
            pipeline = pipeline_of(row.cell.plan, session.store)
            entry = Entry(
                digest=artifact.name,
                upload=upload,
                key=pipeline.stages["package"].key,
                inputs=inputs_of(pipeline),
                night="20260101T000000Z-0000",
            )
            cell = CellName.of(pipeline.plan.identifier)
            session.depot.move(cell, session.depot.read(cell), CellRecord(current=entry))


def timed(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and CPU seconds of a command."""
    environment = {**os.environ, "TRTLLM_KIT_STORE": str(folder / "store"), "HF_HUB_OFFLINE": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [COMMAND, *arguments, "--output", "json"], cwd=folder, env=environment, capture_output=True, text=True
    )
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    json.loads(done.stdout)
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
