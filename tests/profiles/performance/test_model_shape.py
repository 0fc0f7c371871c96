"""Counts of public models against the figures that their owners publish, and reading of config.json."""

from __future__ import annotations

import pytest

from profiles.model_shape import ModelShape, find, known_models
from trtllm_kit.errors import SpecError

PUBLISHED_BILLIONS = {
    "llama-3-8b": 8.03,
    "llama-2-70b": 68.98,
    "llama-3.1-405b": 405.85,
    "mixtral-8x7b": 46.70,
    "mixtral-8x22b": 140.62,
    "gpt-oss-120b": 116.83,
    "gpt-oss-20b": 20.91,
    "deepseek-r1": 671.03,
    "qwen3-235b-a22b": 235.09,
    "qwen3-30b-a3b": 30.53,
    "qwen2.5-72b": 72.71,
    "llama-4-maverick": 400.71,
    "gpt-j-6b": 6.05,
    "llama-3.2-1b": 1.236,
}
"""Total parameters as model cards and safetensors indexes give them."""


@pytest.mark.parametrize(("name", "billions"), PUBLISHED_BILLIONS.items())
def test_counts_are_those_that_the_owners_publish(name: str, billions: float) -> None:
    assert find(name).total_params / 1e9 == pytest.approx(billions, rel=0.002)


@pytest.mark.parametrize(
    ("name", "billions"), [("mixtral-8x7b", 12.9), ("deepseek-v3", 37.0), ("gpt-oss-120b", 5.1), ("qwen3-30b-a3b", 3.3)]
)
def test_active_parameters_are_those_that_the_owners_publish(name: str, billions: float) -> None:
    shape = find(name)
    active = shape.active_linear_params + shape.head_params
    assert active / 1e9 == pytest.approx(billions, rel=0.1)


def test_kv_cache_of_one_token() -> None:
    assert find("llama-3-8b").kv_elements_per_token * 2 == 128 * 1024  # bytes in 16 bits
    assert find("llama-3-70b").kv_elements_per_token * 2 == 320 * 1024
    assert find("deepseek-v3").kv_elements_per_token == 61 * (512 + 64)


def test_kv_heads_are_copied_beyond_their_number_and_latents_always() -> None:
    llama, deepseek = find("llama-3-70b"), find("deepseek-v3")
    assert llama.kv_elements_per_rank(8) == llama.kv_elements_per_rank(16) == llama.kv_elements_per_token // 8
    assert deepseek.kv_elements_per_rank(8) == deepseek.kv_elements_per_token


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-r1"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("Mixtral-8x7B-v0.1", "mixtral-8x7b"),
        ("LLaMA v2 70B", "llama-2-70b"),
        ("nvidia/Llama-4-Maverick-17B-128E-Instruct-FP8", "llama-4-maverick"),
        ("mistralai/Mistral-7B-Instruct-v0.3@main", "mistral-7b"),
    ],
)
def test_usual_spellings(spelling: str, name: str) -> None:
    assert find(spelling).name == name


def test_an_unknown_model_gets_the_nearest_names() -> None:
    with pytest.raises(SpecError) as caught:
        find("lama-3-70")
    assert "llama-3-70b" in caught.value.fix


def test_every_known_model_is_consistent() -> None:
    for shape in known_models().values():
        assert shape.num_attention_heads % shape.num_key_value_heads == 0, shape.name
        assert shape.num_moe_layers <= shape.num_hidden_layers
        assert shape.active_linear_params <= shape.linear_params


CONFIGS = {
    "llama-3.1-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 151936,
        "use_sliding_window": False,
        "sliding_window": 4096,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "moe_layer_freq": 1,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss",
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 201088,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
    },
    "gpt-j-6b": {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400},
}


@pytest.mark.parametrize(("name", "config"), CONFIGS.items())
def test_a_config_says_the_same_as_the_table(name: str, config: dict[str, object]) -> None:
    assert ModelShape.from_config(config, name) == find(name)


def test_a_config_of_something_else_is_refused() -> None:
    with pytest.raises(SpecError, match="num_hidden_layers"):
        ModelShape.from_config({"hidden_size": 4096, "num_attention_heads": 32})
