"""Since when a cell is slower, and what changed that night."""

from __future__ import annotations

from typing import Any

import pytest

from builder.depot import Depot
from serving.nightly.report.history import history
from serving.nightly.report.nights import night_names, read_nights
from trtllm_kit.errors import SpecError


def read(depot: Depot, cell: str, metric: str | None = None) -> Any:
    return history(read_nights(depot, night_names(depot), only=cell), cell, metric)


def test_a_slower_build_that_came_into_service(kit: Any, depot: Depot, nights: Any) -> None:
    nights.slower_from(depot, 12, 17, promoted=True)
    outcome = kit.ok("nightly", "history", nights.CELL, "--depot", depot.url)
    answer = outcome.out.splitlines()[0]
    night = nights.night_name(12)
    assert answer.startswith(f"throughput worse since night {night}: 1,")
    assert "tokens/s (−15." in answer or "tokens/s (−16." in answer
    assert "beyond noise, p < 0.001); that night: compile.trtllm_version: 1.2.0 → 1.2.1; trtllm 1.2.0 → 1.2.1" in answer
    assert f"{night}  promoted" in outcome.out


def test_json_has_the_finding_in_parts(kit: Any, depot: Depot, nights: Any) -> None:
    nights.slower_from(depot, 12, 17, promoted=True)
    cell = "llama-3.1-8b-fp8-h100_sxm-tp1pp1-tensorrt"
    tree = kit.ok("nightly", "history", cell, "--depot", depot.url, "--output", "json").json
    (finding,) = tree["findings"]
    assert (finding["metric"], finding["role"], finding["worse"]) == ("output_tokens_per_s", "in service", True)
    assert finding["night"] == nights.night_name(12)
    assert finding["nights_since"] == 5
    assert finding["jump"]["change"] == pytest.approx(-0.158, abs=0.02)
    assert len(tree["nights"]) == 17


def test_rejected_candidates_are_slower_and_what_is_in_service_is_not(depot: Depot, nights: Any) -> None:
    nights.slower_from(depot, 12, 17, promoted=False)
    found = read(depot, nights.CELL)
    (finding,) = found.findings
    assert finding.role == "candidate"
    assert finding.sentence.startswith(f"throughput of candidates worse since night {nights.night_name(12)}")
    assert found.rows[-1].state == "rejected"


def test_the_same_build_that_measures_slower_is_not_at_fault(depot: Depot, nights: Any) -> None:
    for number in range(10):
        level = 1200.0 + number % 3 - (100 if number >= 6 else 0)
        row = nights.cell_result(
            decision="keep", current=nights.OLD, artifact=nights.NEW, figures=(nights.throughput(900.0, level),)
        )
        nights.write(depot, number, [row], versions={"driver": "580.82" if number >= 6 else "580.65"})
    (finding,) = read(depot, nights.CELL).findings
    assert finding.same_build
    assert finding.sentence.endswith("not the build itself; that night: driver 580.65 → 580.82")


def test_what_changed_while_nobody_measured_is_not_forgotten(depot: Depot, nights: Any) -> None:
    for number in range(12):
        level = 1200.0 + number % 3 - (100 if number >= 8 else 0)
        row = nights.cell_result(
            decision="keep", current=nights.OLD, artifact=nights.NEW, figures=(nights.throughput(900.0, level),)
        )
        quiet = number in (6, 7)
        rows, cells = ([], {nights.CELL: "skip"}) if quiet else ([row], None)
        nights.write(depot, number, rows, cells=cells, versions={"driver": "580.82" if number >= 7 else "580.65"})
    (finding,) = read(depot, nights.CELL).findings
    assert finding.night == nights.night_name(8)
    assert finding.sentence.endswith("that night or in the 2 before it: driver 580.65 → 580.82")


def test_noise_alone_is_no_change(depot: Depot, nights: Any) -> None:
    nights.slower_from(depot, 99, 17, promoted=False)
    assert read(depot, nights.CELL).answer == ["throughput: no change beyond noise in 17 nights"]


def test_better_is_said_as_plainly_as_worse(depot: Depot, nights: Any) -> None:
    for number in range(10):
        cost = nights.throughput(0.3 if number >= 5 else 0.4, 0.5, metric="usd_per_million_tokens", unit="$/M tokens")
        nights.write(
            depot, number, [nights.cell_result(decision="promote", artifact=f"{number:064x}", figures=(cost,))]
        )
    (line,) = read(depot, nights.CELL).answer
    assert line.startswith(f"cost better since night {nights.night_name(5)}: $0.4 → $0.3/M tokens (−25.0 %")


def test_quiet_nights_are_one_row_and_few_nights_are_no_evidence(depot: Depot, nights: Any) -> None:
    nights.write(depot, 0, [nights.cell_result(decision="promote", figures=(nights.throughput(1200.0, None),))])
    for number in range(1, 6):
        nights.write(depot, number, cells={nights.CELL: "skip"})
    nights.write(depot, 6, [nights.cell_result(status="failed", words="out of disk")])
    found = read(depot, nights.CELL)
    assert [(row.state, len(row.nights)) for row in found.rows] == [("promoted", 1), ("unchanged", 5), ("failed", 1)]
    assert found.answer == ["throughput: 1 of the 4 nights that it takes to tell a change from noise"]


def test_unknown_cells_and_metrics_are_named(depot: Depot, nights: Any) -> None:
    nights.slower_from(depot, 2, 3, promoted=False)
    with pytest.raises(SpecError, match="no night knows"):
        read(depot, "llama-3.1-8b-fp8-l40s-tp1pp1-pytorch")
    with pytest.raises(SpecError, match="no night has measured ttft_ms") as refused:
        read(depot, nights.CELL, "ttft_ms")
    assert "output_tokens_per_s" in refused.value.expected
