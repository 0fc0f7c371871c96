"""The memory check: known models, and what must hold for any model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.ledger import check_fits, ledger, smallest_tp
from profiles.skus import find, skus
from trtllm_kit.errors import FitError

GPUS = [sku for sku in skus().values() if not sku.is_cpu]


@dataclass(frozen=True, kw_only=True)
class Shape:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    vocab_size: int
    tie_word_embeddings: bool = False


LLAMA_8B = Shape(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_size=128,
    vocab_size=128256,
)
LLAMA_70B = replace(LLAMA_8B, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64)


def test_llama_3_8b_is_16_gb_in_bf16_and_its_kv_is_128_kib_a_token() -> None:
    made = ledger(LLAMA_8B, 16, find("h100_sxm"), max_seq_len=1)
    assert made.weights_bytes == pytest.approx(16.06e9, rel=0.001)
    assert made.kv_bytes == 128 * 1024


def test_70b_needs_two_h100_in_bf16_and_one_in_fp8() -> None:
    h100 = find("h100_sxm")
    assert smallest_tp(LLAMA_70B, 16, h100) == 2
    assert smallest_tp(LLAMA_70B, 8, h100) == 1
    assert smallest_tp(LLAMA_70B, 16, find("b200_sxm")) == 1
    assert smallest_tp(LLAMA_70B, 16, h100, pp_size=2) == 1


def test_what_cannot_fit_is_refused_line_by_line_with_the_smallest_change() -> None:
    with pytest.raises(FitError) as caught:
        check_fits(LLAMA_70B, 16, find("h100_sxm"))
    assert caught.value.exit_code == 8
    for words in ("linear weights", "embedding and head", "of 85.90 GB"):
        assert words in caught.value.happened
    assert "set target.tp_size to 2" in caught.value.fix
    assert check_fits(LLAMA_70B, 16, find("h100_sxm"), 2).fits


def test_a_sequence_that_is_too_long_is_said_so() -> None:
    with pytest.raises(FitError, match="one sequence of 600000 tokens") as caught:
        check_fits(LLAMA_8B, 16, find("h100_sxm"), max_seq_len=600_000)
    assert "lower build.max_seq_len" in caught.value.fix
    assert check_fits(LLAMA_8B, 16, find("h100_sxm"), max_seq_len=600_000, kv_bits=8).fits


def test_what_no_number_of_gpus_holds_is_refused() -> None:
    giant = replace(LLAMA_70B, num_hidden_layers=80_000)
    with pytest.raises(FitError, match="does not fit on l4"):
        smallest_tp(giant, 16, find("l4"))


def test_the_cpu_has_no_limit_that_is_known_here() -> None:
    assert check_fits(LLAMA_70B, 16, find("cpu")).capacity_bytes is None


@settings(max_examples=200, deadline=None)
@given(
    layers=st.integers(1, 128),
    width=st.integers(1, 64),
    bits=st.sampled_from([4, 4.5, 8, 16]),
    sku=st.sampled_from(GPUS),
    tokens=st.integers(0, 100_000),
    tied=st.booleans(),
)
def test_more_ranks_or_fewer_bits_never_need_more(
    layers: int, width: int, bits: float, sku, tokens: int, tied: bool
) -> None:
    shape = replace(LLAMA_8B, num_hidden_layers=layers, hidden_size=128 * width, tie_word_embeddings=tied)
    sizes = [ledger(shape, bits, sku, tp, max_seq_len=tokens).total_bytes for tp in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)
    assert ledger(shape, bits, sku, pp_size=2, max_seq_len=tokens).total_bytes <= sizes[0]
    assert ledger(shape, 4, sku, max_seq_len=tokens).total_bytes <= sizes[0]
    try:
        fewest = smallest_tp(shape, bits, sku, max_seq_len=tokens)
    except FitError:
        return
    assert ledger(shape, bits, sku, fewest, max_seq_len=tokens).fits
    assert fewest == 1 or not ledger(shape, bits, sku, fewest // 2, max_seq_len=tokens).fits
