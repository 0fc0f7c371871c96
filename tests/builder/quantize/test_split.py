"""The slices of all ranks, put together again, are the checkpoint; with the safetensors package as the judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builder.quantize import quantize
from builder.quantize.reader import open_checkpoint
from trtllm_kit.console import Silent
from trtllm_kit.errors import SpecError

Make = Callable[..., Any]


def split(model: Any, out: Path, tp_size: int, pp_size: int, scheme: str = "bf16") -> list[dict[str, torch.Tensor]]:
    out.mkdir()
    quantize(model.fetch(), scheme=scheme, layout="trtllm", tp_size=tp_size, pp_size=pp_size, out=out, talk=Silent())
    return [load_file(out / f"rank{rank}.safetensors") for rank in range(tp_size * pp_size)]


@pytest.mark.parametrize("pp_size", [1, 2])
@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "family",
    [
        {"num_key_value_heads": 8},
        {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 1, "tie_word_embeddings": True},
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_key_value_heads": 4},
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 16},
    ],
)
def test_ranks_reassemble(family: dict[str, Any], tp_size: int, pp_size: int, make_model: Make, tmp_path: Path) -> None:
    model = make_model(**family)
    split(model, tmp_path / "out", tp_size, pp_size)
    reader = open_checkpoint(tmp_path / "out")
    assert set(reader.names()) == set(model.tensors)
    for name, tensor in model.tensors.items():
        assert torch.equal(torch.from_numpy(reader.tensor(name)), tensor.float()), name


def test_each_rank_holds_the_heads_that_upstream_gives_it(make_model: Make, tmp_path: Path) -> None:
    """Independent of the reader: 8 query heads and 2 key-value heads of size 8 on 4 ranks."""
    model = make_model()
    ranks = split(model, tmp_path / "out", 4, 1)
    q, k, v, o = (model.tensors[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkvo")
    gate, up, down = (model.tensors[f"model.layers.1.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
    for rank, tensors in enumerate(ranks):
        layer = {name.removeprefix("transformer.layers.1."): tensor for name, tensor in tensors.items()}
        head = rank * 2 // 4
        rows = slice(head * 8, head * 8 + 8)
        fused = torch.cat([q[rank * 16 : rank * 16 + 16], k[rows], v[rows]])
        assert torch.equal(layer["attention.qkv.weight"], fused)
        assert torch.equal(layer["attention.dense.weight"], o[:, rank * 16 : rank * 16 + 16])
        assert torch.equal(layer["mlp.fc.weight"], gate[rank * 32 : rank * 32 + 32])
        assert torch.equal(layer["mlp.gate.weight"], up[rank * 32 : rank * 32 + 32])
        assert torch.equal(layer["mlp.proj.weight"], down[:, rank * 32 : rank * 32 + 32])


def test_the_vocabulary_is_padded_with_zeros_to_whole_rows_for_each_rank(make_model: Make, tmp_path: Path) -> None:
    model = make_model(vocab_size=50)
    heads = [rank["lm_head.weight"] for rank in split(model, tmp_path / "out", 8, 1)]
    assert {head.shape for head in heads} == {(7, 64)}
    whole = torch.cat(heads)
    assert torch.equal(whole[:50], model.tensors["lm_head.weight"])
    assert not whole[50:].any()


def test_a_pipeline_stage_has_only_its_own_layers_and_ends(make_model: Make, tmp_path: Path) -> None:
    first, last = split(make_model(), tmp_path / "out", 1, 2)
    ends = {"transformer.vocab_embedding.weight", "transformer.ln_f.weight", "lm_head.weight"}
    assert ends & set(first) == {"transformer.vocab_embedding.weight"}
    assert ends & set(last) == {"transformer.ln_f.weight", "lm_head.weight"}
    assert {name for name in first if "layers" in name} == {name for name in last if "layers" in name}
    assert {name.split(".")[2] for name in last if "layers" in name} == {"0"}


def test_a_tied_output_layer_is_left_out_only_beside_the_embedding(make_model: Make, tmp_path: Path) -> None:
    model = make_model(tie_word_embeddings=True)
    (alone,) = split(model, tmp_path / "one", 1, 1)
    assert "lm_head.weight" not in alone
    for tp_size, pp_size in ((2, 1), (1, 2)):
        last = split(model, tmp_path / f"{tp_size}{pp_size}", tp_size, pp_size)[-1]
        assert torch.equal(last["lm_head.weight"], model.tensors["model.embed_tokens.weight"][-(50 // tp_size) :])


@pytest.mark.parametrize(
    ("config", "sizes", "named"),
    [
        ({}, (3, 1), "attention heads"),
        ({}, (16, 1), "attention heads"),
        ({}, (1, 3), "layers"),
        ({"num_attention_heads": 12, "num_key_value_heads": 3, "hidden_size": 96}, (2, 1), "key-value heads"),
        ({"intermediate_size": 132}, (8, 1), "intermediate"),
    ],
)
def test_a_split_that_does_not_divide_the_model_is_refused_before_any_file(
    config: dict[str, Any], sizes: tuple[int, int], named: str, make_model: Make, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=named) as refused:
        split(make_model(**config), tmp_path / "out", *sizes)
    assert "pp_size" in str(refused.value) or "tp_size" in str(refused.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_w8a16_is_refused_where_upstream_would_pad_its_linears(make_model: Make, tmp_path: Path) -> None:
    shape = {"head_dim": 16, "hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
    model = make_model(**shape)
    split(model, tmp_path / "two", 2, 1, scheme="int8_wo")
    with pytest.raises(SpecError, match="128 in features, which int8_wo engines at tp_size 4") as refused:
        split(model, tmp_path / "four", 4, 1, scheme="int8_wo")
    assert "a multiple of 256" in str(refused.value)
    assert list((tmp_path / "four").iterdir()) == []


def test_qwen3_with_biases_has_no_engine(make_model: Make, tmp_path: Path) -> None:
    model = make_model(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=16, attention_bias=True)
    with pytest.raises(SpecError, match="attention biases"):
        split(model, tmp_path / "out", 1, 1)
