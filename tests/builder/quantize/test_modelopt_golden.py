"""Our exports beside NVIDIA ModelOpt's of the same model: `tests/golden/make_modelopt_golden.py` made those."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builder.checkpoint import Checkpoint
from builder.digests import DigestCache
from builder.fetch import fetch
from builder.quantize import quantize
from builder.quantize.calibration.samples import CalibrationSet
from builder.quantize.layouts import Ranks, open_layout
from builder.quantize.numerics import integers
from builder.quantize.raw import RawTensor
from builder.quantize.reader import open_checkpoint
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Layout
from trtllm_kit.console import Silent
from trtllm_kit.errors import SpecError

Tensors = dict[str, torch.Tensor]
GOLDEN = Path(__file__).parents[2] / "golden" / "modelopt"


SCHEMES = {
    "fp8": Recipe(precision="fp8"),
    "fp8_kv": Recipe(precision="fp8", kv_cache="fp8"),
    "fp8_pc_pt": Recipe(precision="fp8_pc_pt"),
    "int8_sq": Recipe(precision="int8_sq"),
    "int4_awq": Recipe(precision="int4_awq", group_size=64),
    "w4a8_awq": Recipe(precision="w4a8_awq", group_size=64),
    "nvfp4": Recipe(precision="nvfp4"),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    folder = Path(shutil.copytree(GOLDEN / "source", tmp_path / "source"))
    vocab = {f"<{number}>": number for number in range(64)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocab}}))
    return fetch(str(folder), trust_remote_code=False, digests=DigestCache(tmp_path / "d.json"), talk=Silent())


def export(checkpoint: Checkpoint, out: Path, scheme: str, layout: Layout, tp_size: int = 1) -> Path:
    """Our own export, calibrated on the tokens that ModelOpt was."""
    out.mkdir()
    recipe = SCHEMES.get(scheme, Recipe(precision=scheme))
    ids = torch.randint(2, 64, (4, 32), generator=torch.Generator().manual_seed(20260101)).numpy()
    calibration = CalibrationSet(ids=ids) if recipe.needs_calibration else None
    quantize(
        checkpoint, recipe, layout=layout, tp_size=tp_size, pp_size=1, out=out, talk=Silent(), calibration=calibration
    )
    return out


def assert_same_kinds(ours: Tensors, theirs: Tensors) -> None:
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in ours.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in theirs.items()
    }


def assert_same_tensors(ours: Tensors, theirs: Tensors) -> None:
    assert_same_kinds(ours, theirs)
    bits = ({name: tensor.reshape(-1).view(torch.uint8) for name, tensor in side.items()} for side in (ours, theirs))
    mine, reference = bits
    different = [name for name in reference if not torch.equal(mine[name], reference[name])]
    assert different == []


def copy_parts(source: Path, checkpoint: Checkpoint, scheme: str, layout: Layout, tp_size: int, out: Path) -> Path:
    """Every part of ModelOpt's export in `source`, as our reader gives it, through our writer."""
    out.mkdir()
    reader, ranks = open_checkpoint(source), Ranks(tp_size=tp_size, pp_size=1)
    writer = open_layout(checkpoint, SCHEMES[scheme], layout, dtype="bfloat16", ranks=ranks, out=out)
    modules = set(reader.modules())
    for name, entry in writer.entries.items():
        module, _, role = name.rpartition(".")
        part = module in modules and role in reader.format(module).parts
        raw = reader.parts(module)[role] if part else reader.raw(name)  # type: ignore[index]
        writer.write(name, RawTensor(raw.dtype, raw.array.reshape(entry.shape)))
    writer.close()
    return out


def own(folder: Path, rank: int, tp_size: int) -> Tensors:
    """ModelOpt's tensors of one rank, less what upstream does not read, the embedding as we write it: whole."""
    ranks = [load_file(folder / f"rank{number}.safetensors") for number in range(tp_size)]
    embedding = "transformer.vocab_embedding.weight"
    unread = ("k_cache_scaling_factor", "v_cache_scaling_factor")  # merged in kv_cache_scaling_factor
    kept = {
        name: tensor for name, tensor in ranks[rank].items() if not name.endswith(tuple(f".{name}" for name in unread))
    }
    return {**kept, embedding: torch.cat([tensors[embedding] for tensors in ranks])}


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / name).read_text())
    return tree


@pytest.mark.parametrize("scheme", ["bf16", "int8_wo"])
def test_the_unified_layout_is_equal_to_the_bit(scheme: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    ours = export(checkpoint, tmp_path / "out", scheme, "hf")
    theirs = GOLDEN / f"hf-{scheme}"
    assert_same_tensors(load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors"))


def test_the_unified_layout_says_how_it_is_quantized_in_the_same_words(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """ModelOpt 0.47 lists the embedding too, which no loader quantizes; that and the producer are the difference."""
    ours, theirs = export(checkpoint, tmp_path / "out", "int8_wo", "hf"), GOLDEN / "hf-int8_wo"
    mine, reference = config_of(ours, "hf_quant_config.json"), config_of(theirs, "hf_quant_config.json")
    reference["quantization"]["exclude_modules"].remove("model.embed_tokens")
    assert mine["quantization"] == reference["quantization"]
    assert mine["producer"]["name"] == "trtllm-kit"

    mine, reference = config_of(ours)["quantization_config"], config_of(theirs)["quantization_config"]
    reference["ignore"].remove("model.embed_tokens")
    assert {**mine, "producer": None} == {**reference, "producer": None}


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("scheme", ["bf16", "fp16"])
def test_the_trtllm_layout_is_equal_to_the_bit(
    scheme: str, tp_size: int, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """ModelOpt splits the embedding among ranks (use_parallel_embedding) and we replicate it, as upstream's own
    converter does by default: so ModelOpt's slices together must be our whole table."""
    ours = export(checkpoint, tmp_path / "out", scheme, "trtllm", tp_size)
    theirs = GOLDEN / f"trtllm-{scheme}-tp{tp_size}"
    for rank in range(tp_size):
        assert_same_tensors(load_file(ours / f"rank{rank}.safetensors"), own(theirs, rank, tp_size))


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_parts_of_one_rank_are_placed_as_modelopt_places_them(
    scheme: str, tp_size: int, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """ModelOpt's own parts, read from its export for one rank and written by us for one and for two, are its files."""
    ours = copy_parts(GOLDEN / f"trtllm-{scheme}-tp1", checkpoint, scheme, "trtllm", tp_size, tmp_path / "out")
    theirs = GOLDEN / f"trtllm-{scheme}-tp{tp_size}"
    for rank in range(tp_size):
        assert_same_tensors(load_file(ours / f"rank{rank}.safetensors"), own(theirs, rank, tp_size))
    mine, reference = config_of(ours)["quantization"], config_of(theirs)["quantization"]
    assert {key: mine[key] for key in reference} == reference


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_our_engine_checkpoint_has_the_names_dtypes_and_shapes_of_modelopts(
    scheme: str, tp_size: int, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """ModelOpt writes W4A8 for two ranks, yet trtllm-build would pad its 128 features to 256 and refuse the file."""
    theirs = GOLDEN / f"trtllm-{scheme}-tp{tp_size}"
    if (scheme, tp_size) == ("w4a8_awq", 2):
        with pytest.raises(SpecError, match="128 in features"):
            export(checkpoint, tmp_path / "out", scheme, "trtllm", tp_size)
        return
    ours = export(checkpoint, tmp_path / "out", scheme, "trtllm", tp_size)
    for rank in range(tp_size):
        assert_same_kinds(load_file(ours / f"rank{rank}.safetensors"), own(theirs, rank, tp_size))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_our_unified_checkpoint_has_the_names_dtypes_and_shapes_of_modelopts(
    scheme: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    ours = export(checkpoint, tmp_path / "out", scheme, "hf")
    assert_same_kinds(load_file(ours / "model.safetensors"), load_file(GOLDEN / f"hf-{scheme}" / "model.safetensors"))


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("scheme", ["fp8", "fp8_pc_pt", "nvfp4"])
def test_codes_and_scales_of_weights_are_modelopts_to_the_bit(
    scheme: str, tp_size: int, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Where scales follow from the weights alone; those of activations differ by the order of float32 sums."""
    ours = export(checkpoint, tmp_path / "out", scheme, "trtllm", tp_size)
    for rank in range(tp_size):
        mine = load_file(ours / f"rank{rank}.safetensors")
        theirs = own(GOLDEN / f"trtllm-{scheme}-tp{tp_size}", rank, tp_size)
        activations = {name for name in theirs if name.endswith("activation_scaling_factor")}
        for name in activations:
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-5, atol=0)
        weights = set(theirs) - activations
        assert_same_tensors({name: mine[name] for name in weights}, {name: theirs[name] for name in weights})


def test_fp8_codes_differ_from_a_bfloat16_models_by_one_step_at_most(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """ModelOpt divides in the model's dtype: of a bfloat16 model, it rounds to bfloat16 before it rounds to FP8."""
    ours = load_file(export(checkpoint, tmp_path / "out", "fp8", "hf") / "model.safetensors")
    theirs = load_file(GOLDEN / "hf-fp8" / "model.safetensors")
    for name in (name for name in theirs if theirs[name].dtype == torch.float8_e4m3fn):
        assert torch.equal(ours[f"{name}_scale"], theirs[f"{name}_scale"])
        steps = (ours[name].view(torch.int8).int() - theirs[name].view(torch.int8).int()).abs()
        assert steps.max() <= 1
        assert (steps == 0).float().mean() > 0.95


@pytest.mark.parametrize("scheme", ["int4_awq", "w4a8_awq", "int8_sq"])
def test_with_modelopts_scales_our_codes_are_modelopts(scheme: str) -> None:
    """But for a few that lie at a tie: the file has `pre_quant_scale` in bfloat16, and ModelOpt multiplied the weights
    by what it was before that."""
    reader, source = open_checkpoint(GOLDEN / f"trtllm-{scheme}-tp1"), open_checkpoint(GOLDEN / "source")
    for module in reader.modules():
        _, parts = reader.linear(module)
        weight = torch.from_numpy(source.tensor(f"{module}.weight")) / parts["pre_quant_scale"].float()
        if scheme == "int8_sq":
            codes, scale = integers.quantize_rows(weight)
            torch.testing.assert_close(scale, parts["weight_scale"], rtol=2**-8, atol=0)
            theirs = parts["weight"]
        else:
            codes = integers.quantize_groups(weight, parts["weight_scale"])
            theirs = integers.unpack_rows(parts["weight"])
            assert torch.equal(integers.pack_rows(theirs), parts["weight"])
        steps = (codes.int() - theirs.int()).abs()
        assert steps.max() <= 1
        assert (steps == 0).float().mean() > (0.9 if scheme == "int8_sq" else 0.98), module


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_unified_checkpoint_is_described_and_laid_out_as_modelopt_does(
    scheme: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """ModelOpt 0.47, which made the NVFP4 one, lists the embedding too, which no loader quantizes."""
    theirs = GOLDEN / f"hf-{scheme}"
    ours = copy_parts(theirs, checkpoint, scheme, "hf", 1, tmp_path / "out")
    assert_same_tensors(load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors"))
    for name, block, excluded in (
        ("hf_quant_config.json", "quantization", "exclude_modules"),
        ("config.json", "quantization_config", "ignore"),
    ):
        mine, reference = config_of(ours, name)[block], config_of(theirs, name)[block]
        reference[excluded] = [module for module in reference[excluded] if module != "model.embed_tokens"]
        assert {**mine, "producer": None} == {**reference, "producer": None}


@pytest.mark.parametrize("scheme", ["bf16", "fp16", "int8_wo"])
def test_the_trtllm_config_agrees_wherever_both_have_a_key(scheme: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Differences by choice: float32 logits, the replicated embedding, ModelOpt's own notes (`producer`, `rank`). Our
    `quantization` names all of upstream's keys, and `exclude_modules` stays null for W8A16: `["lm_head"]` would replace
    upstream's list, the embedding would be quantized, and loading would fail."""
    ours = config_of(export(checkpoint, tmp_path / "out", scheme, "trtllm", tp_size=2))
    theirs = config_of(GOLDEN / f"trtllm-{scheme}-tp2")
    chosen = {"producer", "rank", "logits_dtype", "use_parallel_embedding", "quantization"}
    shared = set(ours) & set(theirs) - chosen
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
    # What upstream's class does not read is all that we leave out.
    assert set(theirs) - set(ours) == {
        "bias", "decoder", "rank", "lm_head_bias", "residual_mlp", "rmsnorm", "rotary_pct", "share_embedding_table",
    }  # fmt: skip
    for key in ("quant_algo", "kv_cache_quant_algo"):
        assert ours["quantization"][key] == theirs["quantization"][key]
    assert ours["quantization"]["exclude_modules"] is None


@pytest.mark.parametrize("tp_size", [1, 2])
def test_w8a16_engines_get_the_weights_that_modelopt_quantized(
    tp_size: int, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """ModelOpt writes int8 codes with `weights_scaling_factor` for W8A16, yet trtllm-build loads half-precision weights
    for it and quantizes them itself. So our file holds the unquantized weights, and ModelOpt's file, read back by the
    same reader, is them within half a step."""
    ours = export(checkpoint, tmp_path / "out", "int8_wo", "trtllm", tp_size)
    dtypes = {
        tensor.dtype for rank in range(tp_size) for tensor in load_file(ours / f"rank{rank}.safetensors").values()
    }
    assert dtypes == {torch.bfloat16}

    mine, theirs = open_checkpoint(ours), open_checkpoint(GOLDEN / f"trtllm-int8_wo-tp{tp_size}")
    source = load_file(GOLDEN / "source" / "model.safetensors")
    assert mine.names() == theirs.names()
    for name in mine.names():
        exact = source[name].float()
        assert torch.equal(torch.from_numpy(mine.tensor(name)), exact)
        step = exact.abs().amax(dim=-1, keepdim=True) / 127 if name.endswith("proj.weight") else torch.zeros(1)
        assert ((torch.from_numpy(theirs.tensor(name)) - exact).abs() <= step * 0.5001).all(), name
