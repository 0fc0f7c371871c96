from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from builder.families import FAMILIES, config_of, family_of
from builder.quantize.schemes import SCHEMES
from builder.safetensors_index import read_tensors
from trtllm_kit.errors import SpecError

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {}),
    ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    ("MistralForCausalLM", {"sliding_window": 64}),
    ("Qwen2ForCausalLM", {"head_dim": None}),
    ("Qwen3ForCausalLM", {}),
    ("Qwen3ForCausalLM", {"attention_bias": True}),
    ("Gemma2ForCausalLM", {}),
    ("Gemma3ForCausalLM", {}),
    ("Phi3ForCausalLM", {"head_dim": None}),
]
MOE: list[tuple[str, dict[str, Any]]] = [
    ("MixtralForCausalLM", {"num_local_experts": 3, "num_experts_per_tok": 2}),
    ("Qwen3MoeForCausalLM", {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
]


def raw_of(architecture: str, **changes: Any) -> dict[str, Any]:
    return {**SMALL, "architectures": [architecture], "model_type": family_of(architecture).model_type, **changes}


@pytest.mark.parametrize(("architecture", "changes"), VARIANTS)
def test_names_and_shapes_are_those_of_transformers(architecture: str, changes: dict[str, Any]) -> None:
    """transformers itself says which tensors a model has; biases, q/k norms and ties included."""
    raw = {key: value for key, value in raw_of(architecture, **changes).items() if value is not None}
    config_class = transformers.CONFIG_MAPPING[raw["model_type"]]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config_class(**raw))
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    assert family_of(architecture).shapes(config_of(raw)) == expected


@pytest.mark.parametrize(("architecture", "changes"), MOE)
def test_names_and_shapes_are_those_of_a_saved_mixture_of_experts(
    architecture: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Inside transformers the experts are stacked; on disk, and on the hub, they lie one by one."""
    raw = raw_of(architecture, **changes)
    model = transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[raw["model_type"]](**raw))
    model.save_pretrained(tmp_path)
    saved = config_of(json.loads((tmp_path / "config.json").read_text()))

    expected = {name: entry.shape for name, entry in read_tensors(tmp_path).items()}
    assert family_of(architecture).shapes(config_of(raw)) == expected
    assert (saved.num_experts, saved.experts_per_token) == (3, 2)


def test_each_experts_gate_and_up_are_a_group_that_nothing_folds_into() -> None:
    config = config_of(raw_of(*MOE[1][:1], **MOE[1][1]))
    groups = family_of(config.architecture).groups(config, 1)
    short = [tuple(name.removeprefix("model.layers.1.") for name in group.modules) for group in groups]
    assert short[:2] == [("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",)]
    assert ("mlp.experts.2.up_proj", "mlp.experts.2.gate_proj") in short
    assert ("mlp.experts.0.down_proj",) in short
    assert len(short) == 2 + 2 * 3
    assert not any("mlp.gate" in module for modules in short for module in modules)  # the router stays as it is
    assert [group.norm for group in groups if "experts" in group.modules[0]] == [None] * 6


def test_a_group_ends_in_the_norm_that_it_reads() -> None:
    config = config_of(raw_of("Gemma3ForCausalLM"))
    groups = family_of("Gemma3ForCausalLM").groups(config, 0)
    norms = {group.modules[0].rsplit(".", 1)[1]: group.norm for group in groups}
    assert norms["gate_proj"] == "model.layers.0.pre_feedforward_layernorm.weight"
    assert norms["q_proj"] == "model.layers.0.input_layernorm.weight"
    assert norms["down_proj"] is None


def test_every_row_of_a_fused_linear_has_one_role() -> None:
    config = config_of(raw_of("Phi3ForCausalLM", head_dim=16))
    for module in family_of("Phi3ForCausalLM").modules(config, 0):
        rows = [
            row
            for part in module.linear.slices
            for row in range(part.start(config), part.start(config) + part.rows(config))
        ]
        assert sorted(rows) == list(range(module.linear.rows(config)))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_what_is_unserved_names_known_runtimes_and_precisions(architecture: str) -> None:
    family = family_of(architecture)
    assert {runtime for runtime, _ in family.unserved} <= {"tensorrt", "pytorch"}
    assert {precision for _, precision in family.unserved if precision} <= {*SCHEMES}
    assert family.refusal("cpu", "bf16") is None


def test_a_refusal_says_why() -> None:
    assert "pre_quant_scale" in (family_of("MixtralForCausalLM").refusal("tensorrt", "int4_awq") or "")
    assert "Gemma 2" in (family_of("Gemma2ForCausalLM").refusal("pytorch", "bf16") or "")
    assert family_of("Gemma2ForCausalLM").refusal("tensorrt", "bf16") is None


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_config_that_transformers_wrote_reads_the_same_as_one_of_version_4(architecture: str, tmp_path: Path) -> None:
    scaling: dict[str, Any] = {"rope_type": "linear", "factor": 4.0}
    raw = raw_of(architecture, head_dim=16, rms_norm_eps=1e-5, rope_theta=5e5)
    if architecture == "Phi3ForCausalLM":  # transformers allows it this one only
        factors = [1.0] * 8
        scaling = {"rope_type": "longrope", "factor": 4.0, "short_factor": factors, "long_factor": factors}
        scaling["original_max_position_embeddings"] = raw["original_max_position_embeddings"] = 32
    old = config_of(raw | {"torch_dtype": "bfloat16", "rope_scaling": scaling})

    modern = {key: value for key, value in raw.items() if key != "rope_theta"}
    parameters: dict[str, Any] = {**scaling, "rope_theta": 5e5}
    if architecture == "Gemma3ForCausalLM":
        local = {"rope_type": "default", "rope_theta": 1e4}
        parameters = {"full_attention": parameters, "sliding_attention": local}
    config_class = transformers.CONFIG_MAPPING[raw["model_type"]]
    saved = config_class(**modern, rope_parameters=parameters, dtype="bfloat16")
    saved.save_pretrained(tmp_path)

    new = config_of(json.loads((tmp_path / "config.json").read_text()))

    same = ("hidden_size", "head_size", "num_key_value_heads", "rms_norm_eps", "dtype", "tie_word_embeddings")
    assert [getattr(new, key) for key in same] == [getattr(old, key) for key in same]
    assert (new.rope.theta, new.rope.kind, new.rope.scaling["factor"]) == (5e5, scaling["rope_type"], 4.0)
    assert (old.rope, old.local_rope) == (new.rope, new.local_rope)
    assert old.full_attention_layers == new.full_attention_layers


def test_a_sliding_window_counts_only_where_the_family_uses_it() -> None:
    assert config_of(raw_of("MistralForCausalLM", sliding_window=64)).sliding_window == 64
    assert config_of(raw_of("MistralForCausalLM", sliding_window=None)).sliding_window is None
    assert config_of(raw_of("Qwen2ForCausalLM", sliding_window=64)).sliding_window is None
    assert config_of(raw_of("Qwen2ForCausalLM", sliding_window=64, use_sliding_window=True)).sliding_window == 64


def test_gemma_alternates_windows_and_rotary_bases() -> None:
    """The layers and bases are those that transformers itself gives the config."""
    raw = raw_of("Gemma3ForCausalLM", num_hidden_layers=12, sliding_window=64, rope_theta=1e6)
    config, theirs = config_of(raw), transformers.Gemma3TextConfig(**raw)
    windows = [64 if kind == "sliding_attention" else None for kind in theirs.layer_types]
    assert [config.window(layer) for layer in range(12)] == windows
    bases = [theirs.rope_parameters[kind]["rope_theta"] for kind in theirs.layer_types]
    assert [config.rope_of(layer).theta for layer in range(12)] == bases

    two = config_of(raw_of("Gemma2ForCausalLM", num_hidden_layers=4, sliding_window=64))
    assert [two.window(layer) for layer in range(4)] == [64, None, 64, None]
    assert (two.attn_logit_softcapping, two.final_logit_softcapping) == (50.0, 30.0)
    assert (two.embedding_scale, two.tie_word_embeddings) == (8.0, True)


def test_a_gemma_whose_layers_alternate_irregularly_has_no_engine() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config = config_of(raw_of("Gemma3ForCausalLM", num_hidden_layers=4, layer_types=kinds))
    with pytest.raises(SpecError, match="no regular distance"):
        family_of(config.architecture).trtllm_extras(config)


def test_phi3_carries_its_long_rope_to_the_engine() -> None:
    scaling = {"type": "su", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    raw = raw_of(
        "Phi3ForCausalLM",
        head_dim=16,
        partial_rotary_factor=0.5,
        rope_scaling=scaling,
        original_max_position_embeddings=64,
    )
    config = config_of(raw)
    extras = family_of("Phi3ForCausalLM").trtllm_extras(config)
    assert (config.rope.kind, config.rope.share, config.raw) == ("longrope", 0.5, raw)
    assert extras["position_embedding_type"] == "long_rope"
    assert extras["original_max_position_embeddings"] == 64
    assert (extras["rotary_pct"], extras["longrope_scaling_long_factors"]) == (0.5, [2.0] * 4)


def test_qwen3_has_its_own_default_head_size() -> None:
    raw = raw_of("Qwen3ForCausalLM")
    del raw["head_dim"]
    assert config_of(raw).head_size == 128


def test_an_unknown_architecture_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError) as refused:
        config_of({**SMALL, "architectures": ["LlamaForCausalLLM"]})
    assert "the nearest is LlamaForCausalLM" in str(refused.value)
    assert all(name in str(refused.value) for name in FAMILIES)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": None}, "architectures"),
        ({"architectures": []}, "architectures"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"head_dim": None, "hidden_size": 66}, "hidden_size"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype"),
        ({"rope_theta": -1}, "rope_theta"),
        ({"rope_scaling": "llama3"}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "spiral"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"attention_bias": "yes"}, "attention_bias"),
    ],
)
def test_an_impossible_value_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=r"config\.json") as refused:
        config_of(raw_of("LlamaForCausalLM") | changes)
    assert named in refused.value.happened
    assert refused.value.expected


@pytest.mark.parametrize(
    ("architecture", "changes", "named"),
    [
        ("MixtralForCausalLM", {"num_local_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok"),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("Qwen3MoeForCausalLM", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("Gemma2ForCausalLM", {"hidden_activation": "gelu"}, "hidden_activation"),
        ("Gemma3ForCausalLM", {"layer_types": ["full_attention"]}, "layer_types"),
        ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Gemma3ForCausalLM", {"rope_parameters": {"rope_type": "default"}}, "rope_parameters"),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
    ],
)
def test_what_a_family_does_not_have_is_refused_by_name(architecture: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=r"config\.json") as refused:
        config_of(raw_of(architecture, head_dim=16) | changes)
    assert named in refused.value.happened


def test_a_config_that_is_no_object_is_refused() -> None:
    with pytest.raises(SpecError, match="holds no keys"):
        config_of(["LlamaForCausalLM"])
