"""`trtllm-kit checkpoint inspect`, on ModelOpt's exports and on checkpoints with a linear that was damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builder.quantize import quantize
from builder.quantize.inspect import inspect
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent
from trtllm_kit.errors import IntegrityError, SpecError

Make = Callable[..., Any]
GOLDEN = Path(__file__).parents[2] / "golden" / "modelopt"
SOURCE = GOLDEN / "source"


def look(folder: Path, against: Path | None = None) -> dict[str, Any]:
    return inspect(folder, against, Silent()).to_json()


def test_the_command_prints_what_the_function_finds(kit: Any) -> None:
    folder = GOLDEN / "hf-nvfp4"
    printed = kit.ok("checkpoint", "inspect", str(folder), "--against", str(SOURCE), "--output", "json").json
    assert printed == json.loads(json.dumps(look(folder, SOURCE)))


def test_an_engine_checkpoint_of_two_ranks() -> None:
    found = look(GOLDEN / "trtllm-fp8_kv-tp2")
    assert (found["layout"], found["producer"], found["quant_algo"], found["kv_cache"]) == (
        "trtllm",
        "modelopt",
        "FP8",
        "FP8",
    )
    assert (found["tp_size"], found["pp_size"], found["formats"]) == (2, 1, {"fp8_tensor": 7})
    assert found["files"] == {path.name: path.stat().st_size for path in (GOLDEN / "trtllm-fp8_kv-tp2").glob("rank*")}
    assert found["bf16_bytes"]["attention"] == 2 * (128 * 128 * 2 + 64 * 128 * 2)
    assert found["stored_bytes"]["attention"] == 128 * 128 * 2 + 64 * 128 * 2 + 4 * 8  # a byte each, two scales each
    (query,) = (row for row in found["linears"] if row["module"].endswith("q_proj"))
    tensors = load_file(GOLDEN / "trtllm-fp8_kv-tp2" / "rank0.safetensors")
    qkv = "transformer.layers.0.attention.qkv"
    assert query["scale_min"] == query["scale_max"] == tensors[f"{qkv}.weights_scaling_factor"].item()
    assert query["input_scale"] == tensors[f"{qkv}.activation_scaling_factor"].item()


@pytest.mark.parametrize("layout", ["hf", "trtllm"])
def test_errors_are_those_of_the_effective_weights(layout: str) -> None:
    """AWQ's unified layout has its scales in the norm before the linear, the engine's beside the weight; ModelOpt chose
    them from a bfloat16 model in one, from a float32 model in the other."""
    folder = GOLDEN / ("hf-int4_awq" if layout == "hf" else "trtllm-int4_awq-tp2")
    found = look(folder, SOURCE)
    errors = {row["module"].rpartition(".")[2]: row["error"] for row in found["linears"]}
    assert all(0.08 < error < 0.13 for error in errors.values())


def test_an_error_is_computed_as_by_hand() -> None:
    found = look(GOLDEN / "hf-int8_wo", SOURCE)
    source, stored = load_file(SOURCE / "model.safetensors"), load_file(GOLDEN / "hf-int8_wo" / "model.safetensors")
    for row in found["linears"]:
        weight = source[f"{row['module']}.weight"].float()
        made = stored[f"{row['module']}.weight"].float() * stored[f"{row['module']}.weight_scale"][:, None]
        assert row["error"] == pytest.approx(((made - weight).norm() / weight.norm()).item(), rel=1e-5)
        assert row["scale_max"] == stored[f"{row['module']}.weight_scale"].max().item()


@pytest.mark.parametrize(("factor", "against"), [(1.1, True), (4.0, False)])
def test_a_damaged_linear_stands_out(factor: float, against: bool, kit: Any, make_model: Make, tmp_path: Path) -> None:
    model, out = make_model(num_hidden_layers=6), tmp_path / "out"
    out.mkdir()
    quantize(model.fetch(), Recipe(precision="int8_wo"), layout="hf", tp_size=1, pp_size=1, out=out, talk=Silent())
    base = model.path if against else None
    assert not any(row["stands_out"] for row in look(out, base)["linears"])

    tensors, damaged = load_file(out / "model.safetensors"), "model.layers.4.mlp.up_proj"
    tensors[f"{damaged}.weight_scale"] *= factor
    save_file(tensors, out / "model.safetensors")
    assert [row["module"] for row in look(out, base)["linears"] if row["stands_out"]] == [damaged]
    said = kit.ok("checkpoint", "inspect", str(out), *(("--against", str(base)) if base else ()))
    assert "1 linear stands out" in said.out
    assert damaged in said.out


def test_what_is_not_quantized_can_be_looked_at(kit: Any, tiny_llama: Path) -> None:
    said = kit.ok("checkpoint", "inspect", str(tiny_llama)).out
    assert said.startswith("unquantized in the hf layout, LlamaForCausalLM")
    assert "stand" not in said


def test_another_model_is_no_base(tiny_llama: Path) -> None:
    with pytest.raises(SpecError, match="is another model than"):
        look(GOLDEN / "hf-fp8", tiny_llama)


def test_a_rank_that_is_not_what_the_config_says_is_found(tmp_path: Path) -> None:
    for name in ("config.json", "rank0.safetensors", "rank1.safetensors"):
        (tmp_path / name).write_bytes((GOLDEN / "trtllm-fp8-tp2" / name).read_bytes())
    tensors = load_file(tmp_path / "rank1.safetensors")
    for name in [name for name in tensors if name.endswith("mlp.proj.weight")]:
        tensors[name] = torch.zeros(128, 64).to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "rank1.safetensors")
    with pytest.raises(IntegrityError, match=r"transformer\.layers\.0\.mlp\.proj\.weight has the shape \[128, 64\]"):
        look(tmp_path, SOURCE)


def test_a_folder_without_all_its_ranks_is_refused(kit: Any, tmp_path: Path) -> None:
    for name in ("config.json", "rank0.safetensors"):
        (tmp_path / name).write_bytes((GOLDEN / "trtllm-fp8-tp2" / name).read_bytes())
    outcome = kit.run("checkpoint", "inspect", str(tmp_path))
    assert outcome.code == 3
    assert "rank1.safetensors is missing" in outcome.err
