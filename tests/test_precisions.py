"""Every precision through the front door: quantize, gate, cpu engine; and the gate when it says no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.quantize.schemes import SCHEMES

LOSSY = [name for name, row in SCHEMES.items() if row.algorithm != "copy"]
QUICK = ("--set", "calibration.samples=8", "--set", "calibration.max_seq_len=256")


@pytest.mark.parametrize("precision", LOSSY)
def test_a_precision_passes_its_gate_and_becomes_an_engine(precision: str, kit: Any, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    built = kit.ok("build", "model", "--sku", "cpu", "--precision", precision, *QUICK, "--output", "json").json
    assert [row["name"] for row in built["stages"]] == ["quantize", "evaluate", "compile", "render", "package"]
    manifest = json.loads((Path(built["folder"]) / "manifest.json").read_text())
    quality = manifest["quality"]
    assert quality["decision"] == "pass"
    assert 0 < quality["overall"]["metrics"]["kl_mean"]["value"] < quality["limits"]["kl_mean"]
    report = json.loads((Path(built["folder"]) / "quality" / "quality.json").read_text())
    assert len(report["layers"]) == 4
    assert (Path(built["folder"]) / "quality" / "quality.html").stat().st_size > 10_000
    assert all(held == "native" or "float32" in held for held in manifest["weights"].values())
    assert kit.ok("artifact", "verify").code == 0


def test_a_gate_that_is_not_passed_stops_the_build_and_leaves_its_report(kit: Any, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    strict = (
        "build",
        "model",
        "--sku",
        "cpu",
        "--precision",
        "int4_wo",
        "--set",
        "evaluation.limits={kl_mean: 0.000001}",
    )
    refused = kit.run(*strict)
    assert refused.code == 6
    assert "KL" in refused.err
    picture = next(kit.store.glob("stages/evaluate/*/quality.html"))
    assert str(picture) in refused.err
    assert not (kit.store / "artifacts").exists()
    assert not list(kit.store.glob("stages/compile/*"))
    again = kit.run(*strict)
    assert (again.code, "evaluate: skipped, unchanged" in again.err) == (6, True)


def test_too_little_text_is_undecided_and_says_how_much_more(kit: Any, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    refused = kit.run("build", "model", "--sku", "cpu", "--precision", "int8_wo", "--set", "evaluation.max_tokens=600")
    assert refused.code == 6
    assert "undecided" in refused.err
    assert "more" in refused.err


def test_excluded_layers_stay_as_they_are_and_cost_bytes(kit: Any, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    exclude = ("--set", "quantization.exclude=['*.layers.0.*']")
    folder = kit.ok("build", "checkpoint", "--sku", "cpu", "--precision", "int8_wo", *exclude).out.strip()
    config = json.loads((Path(folder) / "hf_quant_config.json").read_text())
    excluded = config["quantization"]["exclude_modules"]
    assert "lm_head" in excluded
    assert any(name.startswith("model.layers.0") for name in excluded)
    inspected = kit.ok("checkpoint", "inspect", folder, "--output", "json").json
    assert json.dumps(inspected).count("model.layers.0.") > 0


def test_a_pattern_that_matches_nothing_is_refused(kit: Any, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    refused = kit.run("plan", "--sku", "cpu", "--precision", "fp8", "--set", "quantization.exclude=['*.layer.0.*']")
    assert refused.code == 3
    assert "matches no linear" in refused.err


def test_mixed_precision_has_a_row_for_each_layer(kit: Any, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    layers = ("--set", "quantization.layers={'*.mlp.*': int8_wo, '*.self_attn.*': fp8_pc_pt}")
    built = kit.ok("build", "model", "--sku", "cpu", "--precision", "mixed", *layers, "--output", "json").json
    manifest = json.loads((Path(built["folder"]) / "manifest.json").read_text())
    assert manifest["identifier"].split("-")[2] == "mixed"
    assert manifest["quality"]["decision"] == "pass"


def test_a_quantized_checkpoint_is_passed_through_and_not_quantized_twice(kit: Any, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    quantized = kit.ok("build", "checkpoint", "--sku", "cpu", "--precision", "int8_wo").out.strip()
    plan = kit.ok("plan", "--model", quantized, "--sku", "cpu", "--output", "json").json
    assert plan["spec"]["precision"] == "int8_wo"
    again = kit.ok("build", "model", "--model", quantized, "--sku", "cpu", "--output", "json").json
    assert "evaluate" not in {row["name"] for row in again["stages"]}
    refused = kit.run("plan", "--model", quantized, "--sku", "cpu", "--precision", "fp8")
    assert refused.code == 3
    assert "quantized to int8_wo already" in refused.err


def test_the_costliest_layers_are_left_out_by_measurement(kit: Any, tiny_llama: Path) -> None:
    kit.ok("init", "--model", str(tiny_llama))
    auto = ("--set", "quantization.auto_exclude=1", "--set", "quantization.auto_exclude_budget=0.2")
    done = kit.ok("build", "checkpoint", "--sku", "cpu", "--precision", "int4_wo", *auto)
    assert "left in half precision: model.layers." in done.err
    config = json.loads((Path(done.out.strip()) / "hf_quant_config.json").read_text())
    assert any(name.startswith("model.layers.") for name in config["quantization"]["exclude_modules"])
