from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from builder.families import FAMILIES, config_of, family_of
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
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {}),
    ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    ("MistralForCausalLM", {"sliding_window": 64}),
    ("Qwen2ForCausalLM", {"head_dim": None}),
    ("Qwen3ForCausalLM", {}),
    ("Qwen3ForCausalLM", {"attention_bias": True}),
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


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_config_that_transformers_wrote_reads_the_same_as_one_of_version_4(architecture: str, tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 4.0}
    raw = raw_of(architecture, head_dim=16, rms_norm_eps=1e-5, rope_theta=5e5, rope_scaling=scaling)
    old = config_of(raw | {"torch_dtype": "bfloat16"})

    modern = {key: value for key, value in raw.items() if key not in ("rope_theta", "rope_scaling")}
    config_class = transformers.CONFIG_MAPPING[raw["model_type"]]
    saved = config_class(**modern, rope_parameters={**scaling, "rope_theta": 5e5}, dtype="bfloat16")
    saved.save_pretrained(tmp_path)

    new = config_of(json.loads((tmp_path / "config.json").read_text()))

    same = ("hidden_size", "head_size", "num_key_value_heads", "rms_norm_eps", "dtype", "tie_word_embeddings")
    assert [getattr(new, key) for key in same] == [getattr(old, key) for key in same]
    assert (new.rope.theta, new.rope.kind, new.rope.scaling["factor"]) == (5e5, "linear", 4.0)
    assert old.rope == new.rope


def test_a_sliding_window_counts_only_where_the_family_uses_it() -> None:
    assert config_of(raw_of("MistralForCausalLM", sliding_window=64)).sliding_window == 64
    assert config_of(raw_of("MistralForCausalLM", sliding_window=None)).sliding_window is None
    assert config_of(raw_of("Qwen2ForCausalLM", sliding_window=64)).sliding_window is None
    assert config_of(raw_of("Qwen2ForCausalLM", sliding_window=64, use_sliding_window=True)).sliding_window == 64


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


def test_a_config_that_is_no_object_is_refused() -> None:
    with pytest.raises(SpecError, match="holds no keys"):
        config_of(["LlamaForCausalLM"])
