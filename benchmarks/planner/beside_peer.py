"""Our errors beside a peer's on the same published rows: `--peer aiconfigurator=VENV`.

    python benchmarks/planner/beside_peer.py --measured trtllm_measured_latency.csv --peer aiconfigurator=VENV

The rows are a sample with equal shares of each SKU, family and precision from 0.12 on. Ours are predicted by a fit
without their cell (SKU, model, TP); the peer has measured kernels of its own and has seen no such row.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from profiles.fit import PUBLISHED, Rows, fit, load
from profiles.performance.columns import Array
from profiles.performance.rows import Measured, read

ASK = {"aiconfigurator": Path(__file__).with_name("ask_aiconfigurator.py")}
_SYSTEMS = {
    "a100_sxm_80gb": "a100_sxm",
    "a100_pcie_80gb": "a100_pcie",
    "rtx_pro_6000": "rtx_pro_6000_server",
}
_MODELS = {
    "llama-3-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.1-405b": "meta-llama/Meta-Llama-3.1-405B",
    "mixtral-8x7b": "mistralai/Mixtral-8x7B-v0.1",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "gpt-oss-120b": "openai/gpt-oss-120b",
    "llama-4-maverick": "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
}
"""By our name: the peer's, of the same size."""

_EARLY = ("0.10", "0.11")


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask the peer, then fit anew for the cells of the sample, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--measured", type=Path, required=True, metavar="CSV")
    parser.add_argument("--peer", required=True, metavar="NAME=VENV", help="aiconfigurator=its virtual environment")
    parser.add_argument("--rows", type=int, default=240)
    options = parser.parse_args(arguments)
    name, _, venv = options.peer.partition("=")
    published = [row for row in read(PUBLISHED) if row.question and row.row.get("kind") == "max_throughput"]
    rows = load(options.measured)
    chosen = sample(published, options.rows)
    answers = list(ask(ASK[name], Path(venv), [question_of(published[place]) for place in chosen]))
    ours = _ours(rows, chosen)
    print("\n".join(table(name, published, chosen, answers, ours)))


def sample(published: Sequence[Measured], count: int) -> list[int]:
    """Places of rows: as many of each SKU, family and precision as there are, up to an equal share."""
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(published):
        if _known(row) and not row.row["trtllm_version"].startswith(_EARLY):
            strata[_stratum(row)].append(place)
    picker = random.Random(0)
    for places in strata.values():
        picker.shuffle(places)
    turns = [places[turn] for turn in range(count) for places in strata.values() if turn < len(places)]
    return sorted(turns[:count])


def _known(row: Measured) -> bool:
    return row.question is not None and row.question.setup.shape.name in _MODELS


def _stratum(row: Measured) -> tuple[str, str]:
    assert row.question is not None
    setup = row.question.setup
    return setup.sku.id, "MoE" if setup.shape.is_moe else f"dense {setup.precision}"


def question_of(row: Measured) -> dict[str, Any]:
    """What the peer is asked for a row."""
    assert row.question is not None
    setup = row.question.setup
    return {
        "system": _SYSTEMS.get(setup.sku.id, setup.sku.id),
        "model": _MODELS[setup.shape.name],
        "precision": setup.precision,
        "moe": setup.shape.is_moe,
        "tp": setup.tp_size,
        "pp": setup.pp_size,
        "attention_dp": setup.attention_dp,
        "isl": row.question.isl,
        "osl": row.question.osl,
        "memory_gib": (setup.sku.memory_bytes or 0) / 2**30,
    }


def ask(script: Path, venv: Path, questions: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The peer's answers, in order, from one process in its environment."""
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run([venv / "bin" / "python", script], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def _ours(rows: Rows, chosen: Sequence[int]) -> Array:
    """Our misses of the chosen rows, each by a fit without its cell; published rows come first in `rows`."""
    model, cells, misses = fit(rows), np.array(rows.cell), np.full(len(rows.cell), np.nan)
    for cell in sorted({rows.cell[place] for place in chosen}):
        out = cells == cell
        misses[out] = fit(rows.take(~out), model).misses(rows.take(out))[0]
    return misses[list(chosen)]


def table(
    name: str,
    published: Sequence[Measured],
    chosen: Sequence[int],
    answers: Sequence[Mapping[str, Any]],
    ours: Array,
) -> list[str]:
    """Median and mean of absolute errors in percent, where the peer answers and where it does not."""
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for place, answer, miss in zip(chosen, answers, ours, strict=True):
        truth = published[place].output_tokens_per_s or np.nan
        theirs = 100 * abs(answer.get("output_tokens_per_s", np.nan) / truth - 1)
        for group in (" ".join(_stratum(published[place])), "all"):
            groups[group].append((100 * abs(np.expm1(miss)), theirs))
    lines = [
        f"| rows | n | answered by {name} | its median / mean, % | ours on these | ours on all |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for group, pairs in sorted(groups.items(), key=lambda item: (item[0] == "all", item[0])):
        errors = np.array(pairs)
        both = errors[np.isfinite(errors[:, 1])]
        figures = (_figures(both[:, 1]), _figures(both[:, 0]), _figures(errors[:, 0]))
        lines.append(f"| {group} | {len(errors)} | {len(both)} | {' | '.join(figures)} |")
    return lines


def _figures(errors: Array) -> str:
    return f"{np.median(errors):.1f} / {np.mean(errors):.1f}" if len(errors) else ""


if __name__ == "__main__":
    main()
