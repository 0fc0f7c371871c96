"""The paged KV cache: published figures, and what must hold for any distribution."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.kv import Lengths, sequences, token_bytes
from profiles.model_shape import find
from trtllm_kit.errors import SpecError


@pytest.mark.parametrize(
    ("model", "bits", "kib"),
    [
        ("llama-3-8b", 16, 128),  # of the 8 KV heads; the 32 query heads would give 512
        ("llama-3-8b", 8, 64),
        ("llama-3-70b", 16, 320),
        ("llama-2-7b", 16, 512),
        ("deepseek-v3", 16, 61 * (512 + 64) * 2 / 1024),  # MLA: a latent of 512 and 64 rotated features a layer
    ],
)
def test_bytes_of_a_token(model: str, bits: float, kib: float) -> None:
    assert token_bytes(find(model), bits) == kib * 1024


def test_tp_deals_heads_out_and_copies_latents() -> None:
    assert token_bytes(find("llama-3-8b"), tp_size=4) == 32 * 1024
    assert token_bytes(find("llama-3-8b"), tp_size=16) == 16 * 1024  # 8 heads: one on each rank, twice
    assert token_bytes(find("deepseek-v3"), tp_size=8) == token_bytes(find("deepseek-v3"))


def test_80_gb_less_16_hold_119_sequences_of_4096() -> None:
    held = sequences((80 - 16) * 1e9, token_bytes(find("llama-3-8b")), Lengths.parse("fixed:4096"))
    assert (held.on_average, held.safely, held.at_full_length) == (119, 119, 119)


def test_paging_doubles_what_66_gb_hold_of_llama_2_7b() -> None:
    held = sequences(66e9, token_bytes(find("llama-2-7b")), Lengths.parse("uniform:50:2048"), tokens_per_block=1)
    assert (held.on_average, held.at_full_length) == (120, 61)
    blocks = sequences(66e9, token_bytes(find("llama-2-7b")), Lengths.parse("uniform:50:2048"))
    assert blocks.on_average == 118  # half a block of 32 is lost on each


def test_a_file_of_lengths(tmp_path: Path) -> None:
    file = tmp_path / "lengths"
    file.write_text("100\n300\n")
    assert sequences(1000, 1, Lengths.parse(str(file)), tokens_per_block=100).on_average == 5


@pytest.mark.parametrize("text", ["", "fixed", "fixed:0", "uniform:9", "uniform:9:3", "fixed:1:2", "normal:3:4"])
def test_what_is_no_distribution_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Lengths.parse(text)


@pytest.mark.parametrize("content", ["", "1\nx\n", "0\n"])
def test_a_file_without_lengths_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "lengths"
    file.write_text(content)
    with pytest.raises(SpecError):
        Lengths.parse(str(file))


@given(
    pool=st.integers(0, 10**7), low=st.integers(1, 500), extra=st.integers(0, 2000), block=st.sampled_from([1, 32, 64])
)
def test_careful_counts_are_between_the_worst_and_the_average(pool: int, low: int, extra: int, block: int) -> None:
    held = sequences(pool, 1, Lengths(range(low, low + extra + 1)), block)
    assert held.at_full_length <= held.safely <= held.on_average
    more = sequences(2 * pool, 1, Lengths(range(low, low + extra + 1)), block)
    assert more.safely >= held.safely
