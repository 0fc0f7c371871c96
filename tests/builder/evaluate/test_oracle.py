"""Every figure against transformers: the whole model in memory, all logits at once, nothing of ours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from builder.checkpoint import Checkpoint
from builder.evaluate import QualityReport

FP8 = torch.float8_e4m3fn
Report = Callable[..., QualityReport]


def documents(data: Path, model: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return [tokenizer.encode(json.loads(line)["text"]).ids for line in data.read_text().splitlines()]


def full_model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def expected(base: Any, other: Any, ids: list[list[int]], **options: Any) -> dict[str, float]:
    """The metrics from the two models' whole logits, in float64."""
    nll_base, nll, kl, agreed = [], [], [], []
    for document in ids:
        tokens = torch.tensor([document])
        with torch.inference_mode():
            p = base(tokens).logits[0, :-1].double().log_softmax(-1)
            q = (
                other(tokens, **{name: make() for name, make in options.items()})
                .logits[0, :-1]
                .double()
                .log_softmax(-1)
            )
        target = tokens[0, 1:, None]
        nll_base += (-p.gather(1, target)).flatten().tolist()
        nll += (-q.gather(1, target)).flatten().tolist()
        kl += (p.exp() * (p - q)).sum(-1).tolist()
        agreed += (p.argmax(-1) == q.argmax(-1)).tolist()
    perplexities = [math.exp(np.mean(losses)) for losses in (nll_base, nll)]
    return {
        "perplexity_base": perplexities[0],
        "perplexity": perplexities[1],
        "perplexity_increase": perplexities[1] - perplexities[0],
        "perplexity_ratio": perplexities[1] / perplexities[0],
        "kl_mean": float(np.mean(kl)),
        "kl_p99": float(np.quantile(kl, 0.99, method="inverted_cdf")),
        "top1_agreement": float(np.mean(agreed)),
    }


def check(found: QualityReport, wanted: dict[str, float]) -> None:
    metrics = found.slices["overall"].metrics
    assert metrics.keys() == wanted.keys()
    for name, value in wanted.items():
        # An increase is a small difference of large numbers.
        absolute = 2e-4 if name == "perplexity_increase" else 2e-7
        assert metrics[name].value == pytest.approx(value, rel=2e-3, abs=absolute), name
        assert metrics[name].low <= metrics[name].value <= metrics[name].high


def linears(model: Any) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            yield name, module


def with_effective_weights(model: Path, folder: Path) -> Any:
    """transformers' model with `codes × scale` in place of each weight, by the file's own words."""
    stored, made = load_file(folder / "model.safetensors"), full_model(model)
    for name, module in linears(made):
        scale = stored[f"{name}.weight_scale"]
        module.weight.data = stored[f"{name}.weight"].float() * scale.reshape(-1, 1)
    return made


@contextmanager
def rounded_inputs(model: Any, rounded: Callable[[Any], Any]) -> Iterator[None]:
    hooks = [module.register_forward_pre_hook(lambda _, x: rounded(x[0])) for _, module in linears(model)]
    yield
    for hook in hooks:
        hook.remove()


def test_weight_only(
    base: Checkpoint, quantized: Callable[..., Path], report: Report, tiny_llama: Path, data: Path
) -> None:
    folder = quantized("int8_wo")
    wanted = expected(full_model(tiny_llama), with_effective_weights(tiny_llama, folder), documents(data, tiny_llama))
    found = report(folder)
    check(found, wanted)
    assert found.decision == "pass"
    assert wanted["kl_mean"] > 1e-5


def test_rounded_activations(quantized: Callable[..., Path], report: Report, tiny_llama: Path, data: Path) -> None:
    """FP8 with a scale for each token: more than nine tenths of its loss come from the activations."""

    def rounded(x: Any) -> Any:
        scale = x.abs().amax(-1, keepdim=True) / 448
        return (x / scale).to(FP8).float() * scale

    folder = quantized("fp8_pc_pt")
    other = with_effective_weights(tiny_llama, folder)
    with rounded_inputs(other, rounded):
        wanted = expected(full_model(tiny_llama), other, documents(data, tiny_llama))
    check(report(folder), wanted)


class Fp8Cache(transformers.DynamicCache):  # type: ignore[misc]
    """Holds keys and values in FP8, with scale 1 as TensorRT-LLM does."""

    def update(self, keys: Any, values: Any, *rest: Any, **options: Any) -> Any:
        kept = (part.clamp(-448, 448).to(FP8).float() for part in (keys, values))
        return super().update(*kept, *rest, **options)


def test_an_fp8_kv_cache(model_copy: Path, report: Report, tiny_llama: Path, data: Path) -> None:
    """Weights as they are: all that is lost is lost in the cache."""
    tensors = load_file(model_copy / "model.safetensors")
    for layer in range(4):
        for scale in ("k_proj.k_scale", "v_proj.v_scale"):
            tensors[f"model.layers.{layer}.self_attn.{scale}"] = torch.tensor(1.0)
    save_file(tensors, model_copy / "model.safetensors", metadata={"format": "pt"})
    quantization = {"quant_algo": None, "kv_cache_quant_algo": "FP8", "exclude_modules": []}
    (model_copy / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    model = full_model(tiny_llama)
    wanted = expected(model, model, documents(data, tiny_llama), past_key_values=Fp8Cache)
    assert wanted["kl_mean"] > 1e-5
    check(report(model_copy), wanted)


def test_what_trtllm_build_will_round_is_rounded(quantized: Callable[..., Path], report: Report) -> None:
    """TensorRT-LLM's file holds W8A16 in half precision: a copy, to look at it, but no copy once it is built."""
    engine, unified = report(quantized("int8_wo", "trtllm")), report(quantized("int8_wo", "hf"))
    metrics = [found.slices["overall"].metrics["kl_mean"].value for found in (engine, unified)]
    assert metrics[0] == pytest.approx(metrics[1], rel=0.2)
    assert engine.about["bits"] == 8


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
@pytest.mark.parametrize("layout", ["hf", "trtllm"])
def test_a_cast_passes_without_a_measurement(
    quantized: Callable[..., Path], report: Report, precision: str, dtype: str, layout: str
) -> None:
    found = report(quantized(precision, layout))
    assert found.decision == "pass"
    assert not found.slices
    assert dtype in found.reasons[0]


def test_both_layouts_of_a_scheme_are_the_same_model(quantized: Callable[..., Path], report: Report) -> None:
    found = [report(quantized("fp8_pc_pt", layout)).to_json() for layout in ("hf", "trtllm")]
    assert found[0]["about"].pop("layout") == "hf"
    assert found[1]["about"].pop("layout") == "trtllm"
    assert found[0] == found[1]
