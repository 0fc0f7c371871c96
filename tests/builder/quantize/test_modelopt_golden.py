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
from builder.quantize.reader import open_checkpoint
from trtllm_kit.console import Silent

GOLDEN = Path(__file__).parents[2] / "golden" / "modelopt"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    folder = Path(shutil.copytree(GOLDEN / "source", tmp_path / "source"))
    vocab = {f"<{number}>": number for number in range(64)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocab}}))
    return fetch(str(folder), trust_remote_code=False, digests=DigestCache(tmp_path / "d.json"), talk=Silent())


def export(checkpoint: Checkpoint, out: Path, scheme: str, layout: str, tp_size: int = 1) -> Path:
    out.mkdir()
    quantize(checkpoint, scheme=scheme, layout=layout, tp_size=tp_size, pp_size=1, out=out, talk=Silent())
    return out


def assert_same_tensors(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in ours.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in theirs.items()
    }
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert different == []


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
    reference = [load_file(theirs / f"rank{rank}.safetensors") for rank in range(tp_size)]
    embedding = "transformer.vocab_embedding.weight"
    table = torch.cat([rank[embedding] for rank in reference])
    for rank in range(tp_size):
        assert_same_tensors(load_file(ours / f"rank{rank}.safetensors"), {**reference[rank], embedding: table})


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
