"""Layer by layer against transformers' whole model: what is passed on, and the statistics of every input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from builder.checkpoint import Checkpoint
from builder.families import family_of
from builder.quantize.calibration.calibrate import Calibration
from builder.quantize.calibration.runner import workers
from builder.quantize.problem import InputStatistics
from builder.quantize.raw import TensorSource, to_float32

Make = Callable[..., Any]

SAMPLES, LENGTH = 9, 96  # two chunks, the last one short
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 96}
WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"model_type": "llama", "attention_bias": True},
    "MistralForCausalLM": {"model_type": "mistral", "sliding_window": 16},
    "Qwen3ForCausalLM": {"model_type": "qwen3"},
    "MixtralForCausalLM": {"model_type": "mixtral", "num_local_experts": 4, **EXPERTS},
    "Qwen3MoeForCausalLM": {"model_type": "qwen3_moe", "num_experts": 4, "norm_topk_prob": True, **EXPERTS},
    "Gemma2ForCausalLM": {"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", **WINDOWS},
    "Gemma3ForCausalLM": {"model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", **WINDOWS},
    "Phi3ForCausalLM": {"model_type": "phi3", "pad_token_id": None},
}


def model_of(architecture: str, make_model: Make) -> Any:
    return make_model(architectures=[architecture], **{"sliding_window": None, **FAMILIES[architecture]})


def run(
    checkpoint: Checkpoint, ids: Any, work: Path, threads: int = 2
) -> tuple[list[torch.Tensor], dict[str, InputStatistics], list[Any]]:
    """(hidden states after each layer, statistics by linear, largest keys and values by layer)."""
    family, source = family_of(checkpoint.config.architecture), TensorSource(checkpoint.tensors)
    states, statistics, cached = [], {}, []

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(to_float32(source.read(name)).copy())

    work.mkdir()
    with workers(threads) as pool:
        calibration = Calibration(
            family,
            checkpoint.config,
            ids,
            fill=lambda name, into: into.copy_(read(name)),
            rows=lambda wanted: read(family.embedding)[wanted],
            dtype="float32",
            device="cpu",
            work=work,
            pool=pool,
            keep_cache=True,
        )
        calibration.start()
        for layer in range(checkpoint.config.num_hidden_layers):
            for observed in calibration.layer(layer, lambda group: frozenset({"amax", "gram"})):
                for group in observed.groups:
                    statistics[group.modules[0]] = observed.statistics(group)
                if observed.cache is not None:
                    cached.append(observed.cache.amax("attention"))
            file = work / f"hidden{(layer + 1) % 2}.bin"
            states.append(torch.from_numpy(np.fromfile(file, np.float32)).view(*ids.shape, -1))
    return states, statistics, cached


def reference_of(model: Any, ids: Any) -> tuple[list[torch.Tensor], dict[str, torch.Tensor], list[Any]]:
    """The same from transformers' own model."""
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        model.path, dtype=torch.float32, attn_implementation="eager"
    )
    states, inputs = [], {}
    for layer in reference.model.layers:
        layer.register_forward_hook(
            lambda _layer, _inputs, made: states.append(made[0] if isinstance(made, tuple) else made)
        )
    for name, module in reference.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _module, found, name=name: inputs.update({name: found[0]}))
    with torch.inference_mode():
        cache = reference(torch.from_numpy(ids), use_cache=True).past_key_values
    return states, inputs, [(layer[0], layer[1]) for layer in cache]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_layers_compute_what_the_whole_model_does(architecture: str, make_model: Make, tmp_path: Path) -> None:
    model = model_of(architecture, make_model)
    ids = np.random.default_rng(1).integers(0, 50, (SAMPLES, LENGTH))
    states, statistics, cached = run(model.fetch(), ids, tmp_path / "work")
    expected, inputs, caches = reference_of(model, ids)
    for found, wanted in zip(states, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    checked = 0
    for name, found in statistics.items():
        if name not in inputs:
            continue  # experts are no linears of transformers
        rows = inputs[name].flatten(0, -2)
        assert found.tokens == len(rows) == SAMPLES * LENGTH
        torch.testing.assert_close(found.amax, rows.abs().amax(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.mean_abs, rows.abs().mean(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.gram, rows.T @ rows, rtol=1e-3, atol=1e-2)
        checked += 1
    assert checked >= 4
    if architecture not in ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "MistralForCausalLM"):  # caches of a window drop
        for (keys, values), (all_keys, all_values) in zip(cached, caches, strict=True):
            torch.testing.assert_close(keys, all_keys.abs().max(), rtol=1e-4, atol=0)
            torch.testing.assert_close(values, all_values.abs().max(), rtol=1e-4, atol=0)


def test_experts_see_the_tokens_that_the_router_sends_them(make_model: Make, tmp_path: Path) -> None:
    """transformers 5 keeps experts in one tensor, so the oracle is the router's own output."""
    model = model_of("MixtralForCausalLM", make_model)
    ids = np.random.default_rng(1).integers(0, 50, (SAMPLES, LENGTH))
    _, statistics, _ = run(model.fetch(), ids, tmp_path / "work")
    reference = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    block, seen = reference.model.layers[1].mlp, {}
    block.experts.register_forward_pre_hook(lambda _module, found: seen.update(hidden=found[0], chosen=found[1]))
    with torch.inference_mode():
        reference(torch.from_numpy(ids))
    for expert in range(4):
        rows = seen["hidden"][(seen["chosen"] == expert).any(dim=-1)]
        found = statistics[f"model.layers.1.block_sparse_moe.experts.{expert}.w3"]
        assert found.tokens == len(rows) > 0
        torch.testing.assert_close(found.amax, rows.abs().amax(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.gram, rows.T @ rows, rtol=1e-3, atol=1e-2)
        inner = statistics[f"model.layers.1.block_sparse_moe.experts.{expert}.w2"]
        weights = {
            name: model.tensors[f"model.layers.1.block_sparse_moe.experts.{expert}.{name}.weight"].float()
            for name in ("w1", "w3")
        }
        product = torch.nn.functional.silu(rows @ weights["w1"].T) * (rows @ weights["w3"].T)
        torch.testing.assert_close(inner.amax, product.abs().amax(dim=0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "MixtralForCausalLM"])
def test_statistics_do_not_depend_on_threads(architecture: str, make_model: Make, tmp_path: Path) -> None:
    checkpoint = model_of(architecture, make_model).fetch()
    ids = np.random.default_rng(1).integers(0, 50, (SAMPLES, LENGTH))
    one, three = (run(checkpoint, ids, tmp_path / str(threads), threads) for threads in (1, 3))
    assert all(torch.equal(left, right) for left, right in zip(one[0], three[0], strict=True))
    for name, found in one[1].items():
        other = three[1][name]
        assert torch.equal(found.amax, other.amax)
        assert torch.equal(found.mean_abs, other.mean_abs)
        assert torch.equal(found.gram, other.gram)
