"""The slices of all ranks, put together again, are the checkpoint; with the safetensors package as the judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builder.quantize import quantize
from builder.quantize.reader import open_checkpoint
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent
from trtllm_kit.errors import SpecError

Make = Callable[..., Any]


def split(model: Any, out: Path, tp_size: int, pp_size: int, scheme: str = "bf16") -> list[dict[str, torch.Tensor]]:
    out.mkdir()
    quantize(
        model.fetch(),
        Recipe(precision=scheme),
        layout="trtllm",
        tp_size=tp_size,
        pp_size=pp_size,
        out=out,
        talk=Silent(),
    )
    return [load_file(out / f"rank{rank}.safetensors") for rank in range(tp_size * pp_size)]


MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
}
QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "head_dim": 16,
}
GEMMA = {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh"}
PHI3 = {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "head_dim": None}


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
        MIXTRAL,
        QWEN3_MOE,
        PHI3,
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


def test_experts_are_stacked_with_up_above_gate_and_the_router_is_float32(make_model: Make, tmp_path: Path) -> None:
    """As upstream's `MOEWeightWrapper` stacks Mixtral's w3 and w1; each rank has its share of every expert."""
    model = make_model(**MIXTRAL)
    ranks = split(model, tmp_path / "out", 2, 1)
    prefix = "model.layers.1.block_sparse_moe"
    for rank, tensors in enumerate(ranks):
        layer = {name.removeprefix("transformer.layers.1."): tensor for name, tensor in tensors.items()}
        share = slice(rank * 64, rank * 64 + 64)
        w1, w2, w3 = ([model.tensors[f"{prefix}.experts.{e}.w{n}.weight"] for e in range(3)] for n in (1, 2, 3))
        fc = [torch.cat([up[share], gate[share]]) for up, gate in zip(w3, w1, strict=True)]
        assert torch.equal(layer["mlp.fc.weight"], torch.stack(fc))
        assert torch.equal(layer["mlp.proj.weight"], torch.stack([down[:, share] for down in w2]))
        assert layer["mlp.router.weight"].dtype == torch.float32
        assert torch.equal(layer["mlp.router.weight"], model.tensors[f"{prefix}.gate.weight"].float())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["moe"] == {"num_experts": 3, "top_k": 2, "normalization_mode": 1}
    assert config["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1, "moe_tp_size": 2, "moe_ep_size": 1}


def test_what_phi_3_fuses_is_parted_for_each_rank_and_its_gate_lies_below(make_model: Make, tmp_path: Path) -> None:
    model = make_model(**PHI3)
    ranks = split(model, tmp_path / "out", 2, 1)
    qkv, gate_up = (
        model.tensors[f"model.layers.0.{name}.weight"] for name in ("self_attn.qkv_proj", "mlp.gate_up_proj")
    )
    q, k, v = qkv.split([64, 16, 16])
    gate, up = gate_up.chunk(2)
    for rank, tensors in enumerate(ranks):
        layer = {name.removeprefix("transformer.layers.0."): tensor for name, tensor in tensors.items()}
        parts = [part.chunk(2)[rank] for part in (q, k, v)]
        assert torch.equal(layer["attention.qkv.weight"], torch.cat(parts))
        assert torch.equal(layer["mlp.fc.weight"], torch.cat([up.chunk(2)[rank], gate.chunk(2)[rank]]))


def test_gemmas_norms_have_the_one_added(make_model: Make, tmp_path: Path) -> None:
    model = make_model(**GEMMA)
    (rank,) = split(model, tmp_path / "out", 1, 1)
    for ours, theirs in (
        ("transformer.layers.1.post_feedforward_layernorm.weight", "model.layers.1.post_feedforward_layernorm.weight"),
        ("transformer.ln_f.weight", "model.norm.weight"),
    ):
        assert torch.equal(rank[ours], (model.tensors[theirs].float() + 1).to(torch.bfloat16))
    reader = open_checkpoint(tmp_path / "out")
    norm = torch.from_numpy(reader.tensor("model.norm.weight"))
    assert (norm - model.tensors["model.norm.weight"].float()).abs().max() <= 2**-8
    down = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(torch.from_numpy(reader.tensor(down)), model.tensors[down].float())


def test_gemmas_embedding_is_parted_for_its_engines_would_do_so_whatever_the_config_says(
    make_model: Make, tmp_path: Path
) -> None:
    model, name = make_model(**GEMMA), "model.embed_tokens.weight"
    ranks = split(model, tmp_path / "out", 2, 1)
    assert [rank["transformer.vocab_embedding.weight"].shape[0] for rank in ranks] == [25, 25]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["use_parallel_embedding"] is True
    assert torch.equal(torch.from_numpy(open_checkpoint(tmp_path / "out").tensor(name)), model.tensors[name].float())


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
    split(model, tmp_path / "two", 2, 1, "int8_wo")
    with pytest.raises(SpecError, match="128 in features, which int8_wo engines at tp_size 4") as refused:
        split(model, tmp_path / "four", 4, 1, "int8_wo")
    assert "a multiple of 256" in str(refused.value)
    assert list((tmp_path / "four").iterdir()) == []


def test_qwen3_with_biases_has_no_engine(make_model: Make, tmp_path: Path) -> None:
    model = make_model(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=16, attention_bias=True)
    with pytest.raises(SpecError, match="attention biases"):
        split(model, tmp_path / "out", 1, 1)
