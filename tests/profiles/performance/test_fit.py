"""The fit itself, on some published rows: better than the priors, repeatable, and it forgets what it may not know."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from profiles.fit import PUBLISHED, Model, Rows, cell_of, fit, held_out, load
from profiles.performance.constants import PARAMETERS, Layout, written
from profiles.performance.rows import read
from profiles.skus import skus

LATENCY = (
    "id,backend_version,model_path,system,precision,isl,osl,gemm_quant_mode,moe_quant_mode,batch_size,tp_size,pp_size,"
    "attention_dp_size,moe_tp_size,moe_ep_size,silicon_ttft_ms,silicon_tpot_ms\n"
    "a,1.0.0rc3,Qwen/Qwen3-32B,h100_sxm,fp8,1024,512,fp8,fp8,32,2,1,,2,1,218.0,16.0\n"
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Every fifteenth published row and one latency."""
    folder = tmp_path_factory.mktemp("rows")
    lines = PUBLISHED.read_text().splitlines()
    (folder / "published.csv").write_text("\n".join([lines[0], *lines[1::15]]) + "\n")
    (folder / "latency.csv").write_text(LATENCY)
    return load(folder / "latency.csv", folder / "published.csv")


def test_a_fit_is_better_than_the_priors_and_repeats_itself(rows: Rows) -> None:
    first, second = fit(rows), fit(rows)
    assert first.layout.to_json(first.vector) == second.layout.to_json(second.vector)
    assert first.coefficients == second.coefficients
    priors = np.abs(Model(first.layout, first.layout.means, {}).misses(rows)[0])
    assert np.median(np.abs(first.misses(rows)[0])) < 0.5 * np.median(priors)


def test_a_fit_ends_at_the_same_place_wherever_it_starts(rows: Rows) -> None:
    """Else rows that were left out would live on in the starting point."""
    model = fit(rows)
    aside = model.vector + 0.5 * model.layout.spreads * np.sin(np.arange(len(model.vector)))
    again = fit(rows, Model(model.layout, aside, {}))
    assert np.abs(again.misses(rows)[0] - model.misses(rows)[0]).mean() < 0.005


def test_what_is_left_out_is_forgotten(rows: Rows) -> None:
    """Predictions of a SKU that was left out must not depend on its own rows, not even through the starting point."""
    model, skus_seen = fit(rows), rows.facts.levels["sku"]
    assert "l40s" in skus_seen
    chosen = np.array([sku == "l40s" for sku in skus_seen])
    again = fit(rows.take(~chosen), model)
    for (_, group, level), value in zip(again.layout.places, again.vector, strict=True):
        if group == "sku" and level == "l40s":
            assert value == 0
    known = np.abs(model.misses(rows.take(chosen))[0]).mean()
    assert np.abs(again.misses(rows.take(chosen))[0]).mean() > known


def test_held_out_misses_cover_every_row(rows: Rows) -> None:
    few = rows.take(np.array([sku in ("h100_sxm", "h200_sxm") for sku in rows.facts.levels["sku"]]))
    misses, ttft = held_out(few, fit(few), few.facts.levels["sku"])
    assert np.isfinite(misses).all()
    assert np.isfinite(ttft).sum() == 1


def test_constants_survive_being_written(rows: Rows) -> None:
    layout = Layout({group: sorted(set(rows.facts.levels[group])) for group in rows.facts.levels})
    vector = layout.means + 0.1 * np.sin(np.arange(len(layout.means)))
    read_again = layout.of_json(layout.to_json(vector))
    assert np.abs(read_again - vector).max() < 1e-4


def test_the_written_constants_belong_to_these_parameters_and_rows() -> None:
    constants = written()["constants"]
    assert set(constants) == {parameter.name for parameter in PARAMETERS}
    for parameter in PARAMETERS:
        assert abs(np.log(constants[parameter.name]["value"] / parameter.prior)) < 6 * parameter.spread, parameter.name
    assert {key.split(" ")[-1] for key in written()["seen"] if " sku " in key} <= set(skus())


def test_every_published_row_has_its_source() -> None:
    with PUBLISHED.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 2730
    assert all(row["source"] and row["commit"] for row in found)
    cells = {cell_of(row) for row in read(Path(PUBLISHED)) if row.question}
    assert len(cells) == 85
