"""What the configs say is quantized, where not everything is, and what cannot be said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.quantize import quantize
from builder.quantize.layouts import Ranks, check_layout
from builder.quantize.reader import open_checkpoint
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent
from trtllm_kit.errors import SpecError

Make = Callable[..., Any]
SHAPE = {"hidden_size": 128, "head_dim": 16, "intermediate_size": 256, "num_key_value_heads": 4}
MIXTRAL = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 2}

# The fields of TensorRT-LLM 1.3.0rc3's QuantConfig: any other key is a TypeError there.
QUANT_CONFIG = {
    "quant_algo", "kv_cache_quant_algo", "group_size", "smoothquant_val", "clamp_val", "use_meta_recipe",
    "has_zero_point", "pre_quant_scale", "exclude_modules",
}  # fmt: skip


def export(model: Any, out: Path, layout: Any, recipe: Recipe, pp_size: int = 1) -> Path:
    out.mkdir()
    quantize(model.fetch(), recipe, layout=layout, tp_size=1, pp_size=pp_size, out=out, talk=Silent())
    return out


def read(folder: Path, name: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / name).read_text())
    return tree


def formats(folder: Path) -> dict[str, str]:
    reader = open_checkpoint(folder)
    return {module.removeprefix("model.layers."): reader.format(module).name for module in reader.modules()}


def test_excluded_linears_are_plain_and_named_in_each_layouts_words(make_model: Make, tmp_path: Path) -> None:
    recipe = Recipe(precision="fp8_pc_pt", exclude=("*.0.self_attn.*", "*.1.mlp.down_proj"))
    model = make_model(**SHAPE)
    hf, engine = (export(model, tmp_path / layout, layout, recipe) for layout in ("hf", "trtllm"))
    plain = [f"0.self_attn.{part}_proj" for part in "qkvo"] + ["1.mlp.down_proj"]
    for folder in (hf, engine):
        assert [module for module, name in formats(folder).items() if name == "plain"] == plain
        assert set(formats(folder).values()) == {"plain", "fp8_row"}
    said = read(hf, "hf_quant_config.json")["quantization"]
    assert said["exclude_modules"] == ["lm_head", *(f"model.layers.{module}" for module in plain)]
    assert read(hf, "config.json")["quantization_config"]["ignore"] == said["exclude_modules"]
    assert read(engine, "config.json")["quantization"]["exclude_modules"] == [
        "lm_head",
        "transformer.layers.0.attention.qkv",
        "transformer.layers.0.attention.dense",
        "transformer.layers.1.mlp.proj",
    ]


def test_an_engines_quantization_has_the_keys_of_upstreams_class(make_model: Make, tmp_path: Path) -> None:
    for precision in ("bf16", "int8_wo", "fp8_pc_pt"):
        folder = export(make_model(**SHAPE), tmp_path / precision, "trtllm", Recipe(precision=precision))
        assert set(read(folder, "config.json")["quantization"]) == QUANT_CONFIG


def test_layers_of_a_mixed_unified_checkpoint_are_listed(make_model: Make, tmp_path: Path) -> None:
    recipe = Recipe(precision="mixed", layers={"*.mlp.*": "fp8_block", "*.1.*": "int8_wo"})
    folder = export(make_model(**SHAPE), tmp_path / "out", "hf", recipe)
    said = read(folder, "hf_quant_config.json")["quantization"]
    assert said["quant_algo"] == "MIXED_PRECISION"
    assert said["exclude_modules"] == ["lm_head", *(f"model.layers.0.self_attn.{part}_proj" for part in "qkvo")]
    layers = said["quantized_layers"]
    assert layers["model.layers.0.mlp.up_proj"] == {"quant_algo": "FP8_BLOCK_SCALES", "group_size": 128}
    assert layers["model.layers.1.self_attn.q_proj"] == {"quant_algo": "W8A16"}
    assert len(layers) == 3 + 7
    assert read(folder, "quant_cfg.json")["quantized_layers"] == layers
    flat = read(folder, "config.json")["quantization_config"]
    assert (flat["quant_algo"], flat["quantized_layers"], flat["ignore"]) == (
        "MIXED_PRECISION",
        layers,
        said["exclude_modules"],
    )


def test_layers_of_a_mixed_engine_are_listed_beside_its_config(make_model: Make, tmp_path: Path) -> None:
    recipe = Recipe(precision="mixed", layers={"*.0.mlp.*": "fp8_pc_pt", "*": "bf16"})
    folder = export(make_model(**SHAPE), tmp_path / "out", "trtllm", recipe)
    assert read(folder, "config.json")["quantization"]["quant_algo"] == "MIXED_PRECISION"
    layers = read(folder, "quant_cfg.json")
    assert layers == {
        "quant_algo": "MIXED_PRECISION",
        "kv_cache_quant_algo": None,
        "quantized_layers": {
            f"transformer.layers.0.mlp.{part}": {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}
            for part in ("fc", "gate", "proj")
        },
    }
    assert formats(folder)["0.mlp.up_proj"] == "fp8_row"
    assert formats(folder)["1.mlp.up_proj"] == "plain"


def test_a_router_is_never_quantized_and_said_to_be_excluded(make_model: Make, tmp_path: Path) -> None:
    model = make_model(**MIXTRAL, **SHAPE)
    folder = export(model, tmp_path / "hf", "hf", Recipe(precision="int8_wo"))
    routers = [f"model.layers.{layer}.block_sparse_moe.gate" for layer in (0, 1)]
    assert read(folder, "hf_quant_config.json")["quantization"]["exclude_modules"] == ["lm_head", *routers]
    assert not any("gate.weight_scale" in name for name in open_checkpoint(folder).tensors)  # type: ignore[attr-defined]


def test_stages_of_a_pipeline_must_be_alike_for_they_number_their_layers_from_0(
    make_model: Make, tmp_path: Path
) -> None:
    model = make_model(**SHAPE)
    with pytest.raises(SpecError, match=r"engines call both transformer\.layers\.0\.mlp\.fc") as refused:
        export(model, tmp_path / "one", "trtllm", Recipe(precision="fp8_pc_pt", exclude=("*.0.mlp.*",)), pp_size=2)
    assert "pp_size" in refused.value.fix
    assert list((tmp_path / "one").iterdir()) == []
    alike = Recipe(precision="fp8_pc_pt", exclude=("*.mlp.down_proj",))
    folder = export(model, tmp_path / "both", "trtllm", alike, pp_size=2)
    assert read(folder, "config.json")["quantization"]["exclude_modules"] == [
        "lm_head",
        "transformer.layers.0.mlp.proj",
    ]


def test_what_trtllm_build_quantizes_itself_cannot_be_parted(make_model: Make) -> None:
    checkpoint, ranks = make_model(**SHAPE).fetch(), Ranks(tp_size=1, pp_size=1)
    for recipe in (
        Recipe(precision="int8_wo", exclude=("*.0.mlp.*",)),
        Recipe(precision="mixed", layers={"*.mlp.*": "int4_wo", "*": "fp8"}),
    ):
        with pytest.raises(SpecError, match="quantize all linears alike"):
            check_layout(checkpoint, recipe, "trtllm", ranks)
    check_layout(checkpoint, Recipe(precision="int8_wo", exclude=("*.0.mlp.*",)), "hf", ranks)


@pytest.mark.parametrize(
    ("recipe", "tp_size", "refusal"),
    [
        (Recipe(precision="int4_awq", group_size=64), 2, None),
        (Recipe(precision="int4_awq"), 1, None),
        (Recipe(precision="int4_awq"), 2, "attention.dense has 128 in features.*int4_awq.*tp_size 2"),
        (Recipe(precision="w4a8_awq"), 2, "attention.qkv has 128 in features.*w4a8_awq.*tp_size 2"),
        (Recipe(precision="nvfp4"), 2, None),
        (Recipe(precision="fp8"), 4, "128 in features, which fp8 engines at tp_size 4"),
    ],
)
def test_groups_of_features_are_not_parted_between_ranks(
    recipe: Recipe, tp_size: int, refusal: str | None, make_model: Make
) -> None:
    checkpoint, ranks = make_model(**SHAPE).fetch(), Ranks(tp_size=tp_size, pp_size=1)
    if refusal is None:
        check_layout(checkpoint, recipe, "trtllm", ranks)
        return
    with pytest.raises(SpecError, match=refusal):
        check_layout(checkpoint, recipe, "trtllm", ranks)
