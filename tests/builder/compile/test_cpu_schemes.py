"""What the quantizer writes for each family, and what ModelOpt exports, is computed as the reader reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from builder.quantize import quantize
from builder.quantize.reader import open_checkpoint
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent

GOLDEN = Path(__file__).parents[2] / "golden" / "modelopt"
EXPERTS = {"num_local_experts": 3, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
FAMILIES: dict[str, dict[str, Any]] = {
    "MixtralForCausalLM": EXPERTS,
    "Qwen3MoeForCausalLM": EXPERTS,
    "Gemma3ForCausalLM": {"hidden_act": None, "query_pre_attn_scalar": 32, "tie_word_embeddings": True},
    "Phi3ForCausalLM": {"head_dim": None},
}
Logits = Callable[[Path, np.ndarray, Path], np.ndarray]


def assert_computes_what_is_read(folder: Path, ir_logits: Logits, out: Path) -> None:
    """Against a float32 checkpoint of the weights that the reader makes of the stored parts."""
    reader = open_checkpoint(folder)
    twin = out / "twin"
    twin.mkdir(parents=True)
    weights = [name for name in reader.names() if not name.endswith("_scale")]
    save_file({name: np.ascontiguousarray(reader.tensor(name)) for name in weights}, twin / "model.safetensors")
    raw = json.loads((folder / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps({key: raw[key] for key in raw if key != "quantization_config"}))

    ids = np.random.default_rng(1).integers(0, raw["vocab_size"], (2, 24))
    actual, expected = ir_logits(folder, ids, out / "ir"), ir_logits(twin, ids, out / "twin-ir")
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("precision", ["int4_wo", "fp8_block"])
def test_every_family_in_what_needs_no_calibration(
    architecture: str, precision: str, make_model: Callable[..., Any], ir_logits: Logits, tmp_path: Path
) -> None:
    model = make_model(architectures=[architecture], hidden_size=160, intermediate_size=192, **FAMILIES[architecture])
    (tmp_path / "out").mkdir()
    recipe = Recipe(precision=precision)
    quantize(model.fetch(), recipe, layout="hf", tp_size=1, pp_size=1, out=tmp_path / "out", talk=Silent())
    assert_computes_what_is_read(tmp_path / "out", ir_logits, tmp_path / "computed")


@pytest.mark.parametrize("name", ["fp8", "fp8_kv", "int4_awq", "int8_sq", "int8_wo", "nvfp4", "w4a8_awq"])
def test_every_export_of_modelopt(name: str, ir_logits: Logits, tmp_path: Path) -> None:
    assert_computes_what_is_read(GOLDEN / f"hf-{name}", ir_logits, tmp_path)
