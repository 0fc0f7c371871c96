"""`auto` limits of a build come from the memory ledger of its SKU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from profiles.ledger import Limits, Placement, ledger
from profiles.model_shape import ModelShape
from trtllm_kit.errors import FitError

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}


@pytest.fixture
def eight(tiny_llama: Path) -> dict[str, Any]:
    return {**json.loads((tiny_llama / "config.json").read_text()), **LLAMA_8B}


def room_beside(plan: Any, raw: dict[str, Any]) -> Any:
    limits = Limits(
        max_batch_size=plan.build.max_batch_size,
        max_num_tokens=plan.build.max_num_tokens,
        max_seq_len=plan.build.max_seq_len,
        runtime=plan.runtime,
    )
    shape = ModelShape.from_config(raw)
    return ledger(Placement(shape=shape, weight_bits=16, sku=plan.sku, tp_size=plan.tp_size, limits=limits))


@pytest.mark.parametrize("sku", ["h100_sxm", "l4", "a10g", "a100_sxm_40gb", "b200_sxm", "h100_sxm_1g_20gb"])
def test_what_is_chosen_fits(plan_for, eight: dict[str, Any], sku: str) -> None:
    plan = plan_for(eight, target__sku=sku)
    made = room_beside(plan, eight)
    assert made.fits
    assert plan.build.max_num_tokens == 8192
    usual = plan.build.max_seq_len // 4
    assert made.kv_tokens >= 0.9 * plan.build.max_batch_size * usual
    assert "a quarter of max_seq_len" in plan.reasons["build.max_batch_size"]


def test_more_memory_batches_more(plan_for, eight: dict[str, Any]) -> None:
    sizes = [plan_for(eight, target__sku=sku).build.max_batch_size for sku in ("l4", "a100_sxm_40gb", "h100_sxm")]
    assert sizes == sorted(set(sizes))


def test_what_is_tight_gets_fewer_tokens_a_step(plan_for, eight: dict[str, Any]) -> None:
    plan = plan_for(eight, target__sku="h100_sxm_1g_20gb", build__max_seq_len=16384, build__max_batch_size=1)
    assert plan.build.max_num_tokens < 8192
    assert "all that leaves KV cache" in plan.reasons["build.max_num_tokens"]
    assert room_beside(plan, eight).fits


def test_the_decided_values_are_decided_again(plan_for, eight: dict[str, Any]) -> None:
    for sku in ("l4", "h100_sxm", "h100_sxm_1g_20gb"):
        first = plan_for(eight, target__sku=sku)
        keys = {
            f"build__{name}": getattr(first.build, name) for name in ("max_batch_size", "max_num_tokens", "max_seq_len")
        }
        again = plan_for(eight, target__sku=sku, target__tp_size=first.tp_size, **keys)
        assert (again.build, again.tp_size) == (first.build, first.tp_size)


def test_more_than_fits_is_refused_with_the_ledger(plan_for, eight: dict[str, Any]) -> None:
    with pytest.raises(FitError) as caught:
        plan_for(eight, target__sku="l4", target__tp_size=1, build__max_seq_len=131072)
    assert "linear weights" in caught.value.happened
    assert caught.value.fix.startswith("lower build.max_seq_len to")


def test_as_many_front_ends_as_python_serves(plan_for, eight: dict[str, Any]) -> None:
    plan = plan_for(eight, target__sku="h100_sxm")
    assert plan.build.max_batch_size > 64
    assert plan.serving.concurrency == 64
