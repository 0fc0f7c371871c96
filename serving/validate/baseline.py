"""Results that later ones are held against, one per build and lengths, kept in the store."""

from __future__ import annotations

import shutil
from pathlib import Path

from serving.validate.compare import Comparison, compare
from serving.validate.sides import REPORT, Side, read_side
from trtllm_kit.errors import UsageError
from trtllm_kit.files import new_folder


def baseline_folder(store_root: Path, identifier: str, input_len: int, output_len: int) -> Path:
    """Where the baseline of SKU, model, precision and parallelism (the identifier) and of these lengths lies."""
    return store_root / "baselines" / f"{identifier}-isl{input_len}-osl{output_len}"


def save_baseline(results: Path, folder: Path) -> None:
    """Keep a copy of a results folder; an older baseline goes once the new one is complete."""
    waiting = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(waiting, ignore_errors=True)
    with new_folder(waiting) as copy:
        shutil.copy2(results / REPORT, copy / REPORT)
        shutil.copytree(results / "runs", copy / "runs")
    shutil.rmtree(folder, ignore_errors=True)
    waiting.rename(folder)


def against_baseline(folder: Path, measured: Side) -> Comparison | None:
    """None when there is no baseline, or none of its levels was measured."""
    if not (folder / REPORT).is_file():
        return None
    try:
        return compare(read_side(folder), measured)
    except UsageError:
        return None
