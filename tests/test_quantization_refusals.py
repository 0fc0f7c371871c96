"""What quantized builds refuse, and when: through the front door, with everything as a person has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.families import FAMILIES
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import SCHEMES
from builder.resolve.quantization import check_support
from builder.store import Store
from profiles.skus import skus
from trtllm_kit.errors import SpecError

STANDIN = Path(__file__).parent / "standins" / "trtllm-build"


@pytest.mark.parametrize(
    ("precision", "sku", "settings", "named"),
    [
        ("int4_awq", "h100_sxm", {"target.tp_size": 4}, "attention.dense has 256 in features"),
        ("fp8", "h100_sxm", {"quantization.exclude": ["*.q_proj"]}, "both read the same input"),
        ("fp8", "cpu", {"calibration.data": "absent.jsonl"}, "calibration.data names absent.jsonl"),
        ("fp8", "cpu", {"evaluation.data": ["absent.jsonl"]}, "evaluation.data names absent.jsonl"),
        ("fp8", "cpu", {"calibration.max_seq_len": 4096}, "1024 positions"),
    ],
)
def test_what_the_quantizer_would_refuse_is_refused_by_the_plan(
    precision: str, sku: str, settings: dict[str, Any], named: str, kit: Any, tiny_llama: Path
) -> None:
    keys = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    refused = kit.run("plan", "--model", str(tiny_llama), "--precision", precision, "--sku", sku, *keys)
    assert refused.code == 3
    assert named in refused.err
    assert not (kit.store / "stages").exists()


def test_what_is_offered_for_a_family_runs_on_the_gpu_too() -> None:
    schemes = (SCHEMES["int8_sq"],)
    with pytest.raises(SpecError) as refused:
        check_support(
            "tensorrt", FAMILIES["MixtralForCausalLM"], "int8_sq", schemes, "auto", skus()["h100_sxm"], "1.2.1"
        )
    assert refused.value.expected == "one of fp16, bf16, int8_wo, int4_wo, fp8 there"


def test_a_gpu_that_torch_cannot_use_is_said_so(kit: Any, tiny_llama: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("torch has a GPU here")
    arguments = ("--model", str(tiny_llama), "--precision", "fp8", "--sku", "cpu", "--set", "calibration.device=cuda")
    refused = kit.run("build", "checkpoint", *arguments)
    assert refused.code == 4
    assert "torch sees no GPU" in refused.err


@pytest.mark.parametrize("precision", ["int4_awq", "w4a8_awq"])
def test_packed_weights_have_the_shape_that_the_engine_builder_wants(
    precision: str, kit: Any, tiny_llama: Path
) -> None:
    arguments = ("--model", str(tiny_llama), "--precision", precision, "--sku", "h100_sxm", "--runtime", "tensorrt")
    few = ("--set", "calibration.samples=4", "--set", "calibration.max_seq_len=64", "--set", "evaluation.enabled=false")
    built = kit.ok("build", "engine", *arguments, *few, TRTLLM_BUILD_COMMAND=str(STANDIN)).out.strip()
    assert (Path(built) / "rank0.engine").is_file()


def test_the_plan_names_the_group_size_that_the_quantizer_takes(kit: Any, tiny_llama: Path) -> None:
    arguments = ("--model", str(tiny_llama), "--precision", "int4_awq", "--sku", "cpu", "--output", "json")
    assert kit.ok("plan", *arguments).json["spec"]["quantization"]["group_size"] == 128


def test_a_group_size_in_a_mixed_recipe_is_only_for_schemes_that_have_a_choice() -> None:
    recipe = Recipe(precision="mixed", layers={"*.down_proj": "nvfp4", "*": "int4_awq"}, group_size=64)
    sizes = [recipe.format_of(f"model.layers.0.mlp.{name}", "hf").group_size for name in ("down_proj", "up_proj")]
    assert sizes == [16, 64]


def test_the_base_of_an_evaluation_is_not_quantized_itself(kit: Any, tiny_llama: Path) -> None:
    quantized = kit.ok("build", "checkpoint", "--model", str(tiny_llama), "--precision", "int4_wo", "--sku", "cpu")
    folder = quantized.out.strip()
    refused = kit.run("evaluate", folder, "--against", folder)
    assert refused.code == 3
    assert "is quantized itself, to int4_wo" in refused.err


def test_what_a_failed_build_kept_to_go_on_from_is_collected(kit: Any, tiny_llama: Path) -> None:
    kept = kit.store / "work" / f"quantize-{'0' * 64}" / "last"
    kept.mkdir(parents=True)
    held = kit.store / "work" / f"quantize-{'1' * 64}"
    held.mkdir()
    with Store(kit.store).lock(held.name):
        listed = kit.ok("artifact", "gc", "--dry-run")
        assert str(kept.parent) in listed.out + listed.err
        assert kept.is_dir()
        kit.ok("artifact", "gc")
        assert held.is_dir()
    assert not kept.parent.exists()


@pytest.mark.parametrize("written", [{"quant_method": "gptq", "bits": 4}, "yes"])
def test_a_quantization_that_is_not_known_is_not_read_as_none(written: Any, kit: Any, model_copy: Path) -> None:
    tree = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps(tree | {"quantization_config": written}))
    refused = kit.run("checkpoint", "inspect", str(model_copy))
    assert refused.code == 3
    assert "which the kit does not know" in refused.err
