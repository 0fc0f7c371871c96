"""The metrics' file: read by promtool where it is installed, and by a strict reader of the format everywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder.depot import Depot
from serving.nightly.report import write_metrics, write_night

_SERIES = re.compile(r'(?P<name>[a-z_]+)(\{(?P<labels>(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (?P<value>\S+)')
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\[\\"n])*)"')

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(path: Path) -> Series:
    """Every series; refuses what the text format 0.0.4 does not allow: a family in two places, a series twice."""
    found: Series = {}
    families: list[str] = []
    lines = path.read_text().split("\n")
    assert lines.pop() == ""
    for line in lines:
        if line.startswith("# HELP "):
            families.append(line.split()[2])
            assert line.split(maxsplit=3)[3]
        elif line.startswith("# TYPE "):
            assert line.split()[2:] == [families[-1], "gauge"]
        else:
            match = _SERIES.fullmatch(line)
            assert match and match["name"] == families[-1], line
            key = (match["name"], frozenset(_LABEL.findall(match["labels"] or "")))
            assert key not in found
            found[key] = float(match["value"])
    assert len(families) == len(set(families))
    return found


def value(series: Series, name: str, **labels: str) -> float:
    """The only series of a name with these labels among its own."""
    found = [one for (known, own), one in series.items() if known == name and labels.items() <= dict(own).items()]
    assert len(found) == 1, (name, labels, found)
    return found[0]


@pytest.fixture
def metrics(depot: Depot, nights: Any, tmp_path: Path) -> Path:
    """After a night that failed, a day after one that promoted."""
    latency = nights.throughput(40.0, None, metric="ttft_ms", unit="ms")
    first = nights.cell_result(decision="promote", figures=(nights.throughput(1200.0, None), latency), seconds=90)
    nights.write(depot, 0, [first])
    name = nights.write(depot, 1, [nights.cell_result(status="failed", seconds=12)])
    path = tmp_path / "kit.prom"
    assert write_night(depot, name, folder=None, prometheus=path, webhook=None) == [path]
    return path


def test_units_are_base_units_and_states_are_state_sets(metrics: Path, nights: Any) -> None:
    found = read(metrics)
    cell = {"model": "llama-3.1-8b", "precision": "fp8", "sku": "h100_sxm", "layout": "tp1pp1-tensorrt"}
    assert value(found, "trtllm_kit_nightly_exit_code") == 9
    assert value(found, "trtllm_kit_nightly_duration_seconds") == 3600
    assert value(found, "trtllm_kit_nightly_cells", state="failed") == 1
    assert value(found, "trtllm_kit_nightly_cells", state="promoted") == 0
    assert value(found, "trtllm_kit_nightly_cell_state", state="failed", **cell) == 1
    assert sum(one for (name, _), one in found.items() if name == "trtllm_kit_nightly_cell_state") == 1
    assert value(found, "trtllm_kit_nightly_cell_duration_seconds", **cell) == 12
    assert value(found, "trtllm_kit_nightly_cell_output_tokens_per_second", **cell) == 1200
    assert value(found, "trtllm_kit_nightly_cell_time_to_first_token_seconds", **cell) == 0.04


def test_the_last_success_is_that_of_the_night_before(metrics: Path, nights: Any) -> None:
    found = read(metrics)
    began = value(found, "trtllm_kit_nightly_start_timestamp_seconds")
    assert value(found, "trtllm_kit_nightly_last_run_timestamp_seconds") == began + 3600
    assert value(found, "trtllm_kit_nightly_last_success_timestamp_seconds") == began - 86400 + 3600


def test_a_run_that_finds_nothing_to_do_is_a_success(metrics: Path, depot: Depot) -> None:
    before = read(metrics)
    write_metrics(depot, metrics)
    after = read(metrics)
    changed = {name for (name, labels), one in after.items() if before.get((name, labels)) != one}
    assert changed == {
        "trtllm_kit_nightly_last_run_timestamp_seconds",
        "trtllm_kit_nightly_last_success_timestamp_seconds",
    }


def test_nothing_is_left_beside_the_file(metrics: Path) -> None:
    assert [path.name for path in metrics.parent.glob("*prom*")] == ["kit.prom"]
    assert [path.name for path in metrics.parent.glob(".*prom*")] == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_finds_nothing_to_say(metrics: Path) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.read_text(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
