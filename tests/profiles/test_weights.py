"""Counts of weights against files on disk: a trained checkpoint, and what NVIDIA ModelOpt splits over ranks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.safetensors_index import read_header, read_tensors
from profiles import weights
from profiles.model_shape import ModelShape, find, known_models

MODELOPT = Path(__file__).parents[1] / "golden" / "modelopt"


def shape_of(folder: Path) -> ModelShape:
    return ModelShape.from_config(json.loads((folder / "config.json").read_text()))


def test_headers_and_config_count_the_same_as_the_file(tiny_llama: Path) -> None:
    tensors = read_tensors(tiny_llama)
    counted = weights.of_tensors(tensors, shape_of(tiny_llama))
    assert counted.total == sum(math.prod(entry.shape) for entry in tensors.values())
    by_config = weights.of_shape(shape_of(tiny_llama))
    assert replace(by_config, origin=counted.origin) == counted


@pytest.mark.parametrize("tp_size", [1, 2])
def test_a_rank_holds_the_bytes_that_modelopt_writes_for_it(tp_size: int) -> None:
    source = MODELOPT / "source"
    counted = weights.of_tensors(read_tensors(source), shape_of(source))
    rank = weights.on_fullest_rank(counted, tp_size, 1)
    written = read_header(MODELOPT / f"trtllm-bf16-tp{tp_size}" / "rank0.safetensors")
    sizes = {name: entry.size_bytes for name, entry in written.items()}
    embedding, head = sizes.pop("transformer.vocab_embedding.weight"), sizes.pop("lm_head.weight")
    assert 2 * (rank.linear + rank.plain) == sum(sizes.values())
    assert 2 * rank.head == head
    assert 2 * rank.embedding == embedding * tp_size  # ModelOpt splits its rows, the kit's own exports do not


def test_a_quantized_checkpoint_counts_the_same_weights() -> None:
    quantized = MODELOPT / "hf-int8_wo"
    assert weights.of_tensors(read_tensors(quantized), shape_of(quantized)).total == pytest.approx(
        weights.of_tensors(read_tensors(MODELOPT / "source"), shape_of(quantized)).total, rel=0.02
    )


@pytest.mark.parametrize(
    ("model", "billions"),
    [("llama-3-8b", 8.030), ("llama-3-70b", 70.554), ("mixtral-8x7b", 46.703), ("deepseek-v3", 671.026)],
)
def test_published_sizes(model: str, billions: float) -> None:
    assert weights.of_shape(find(model)).total / 1e9 == pytest.approx(billions, abs=0.001)


def test_ranks_beyond_the_kv_heads_hold_copies_of_them() -> None:
    counted = weights.of_shape(find("llama-3-8b"))  # 8 KV heads
    keys = sum(layer.keys for layer in counted.layers)
    split = sum(layer.split for layer in counted.layers)
    assert weights.on_fullest_rank(counted, 8, 1).linear == split // 8 + keys // 8
    assert weights.on_fullest_rank(counted, 16, 1).linear == split // 16 + keys // 8


def test_a_tied_head_is_stored_again_once_there_are_ranks_and_padded() -> None:
    counted = weights.of_shape(replace(find("llama-3.2-1b"), vocab_size=128257))
    assert weights.on_fullest_rank(counted, 1, 1).head == 0
    assert weights.on_fullest_rank(counted, 2, 1).head == 64129 * 2048


def test_layers_that_predict_further_tokens_are_not_served(tiny_llama: Path) -> None:
    shape = shape_of(tiny_llama)
    fewer = replace(shape, num_hidden_layers=shape.num_hidden_layers - 1)
    assert weights.of_tensors(read_tensors(tiny_llama), fewer).total == weights.of_shape(fewer).total


@given(
    model=st.sampled_from(list(known_models())),
    tp_size=st.sampled_from([1, 2, 4, 8]),
    pp_size=st.sampled_from([1, 2, 4]),
)
def test_all_ranks_together_hold_at_least_the_model(model: str, tp_size: int, pp_size: int) -> None:
    counted = weights.of_shape(known_models()[model])
    rank = weights.on_fullest_rank(counted, tp_size, pp_size)
    assert tp_size * pp_size * (rank.linear + rank.plain + rank.embedding + rank.head) >= counted.total
    wider = weights.on_fullest_rank(counted, 2 * tp_size, pp_size)
    assert wider.linear <= rank.linear
