"""The memory ledger: what TensorRT-LLM's own logs say, published sizes, and what must hold for any model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.fit_check import check_fits, smallest_change, smallest_slice, smallest_tp
from profiles.ledger import Limits, Placement, largest_batch, largest_num_tokens, largest_seq_len, ledger
from profiles.model_shape import find as model
from profiles.skus import find, skus
from trtllm_kit.errors import FitError

MIB = 1 << 20
H100 = find("h100_sxm")
GPUS = [sku for sku in skus().values() if sku.memory_bytes]


def sizes(place: Placement) -> dict[str, int]:
    return {line.name: line.size_bytes for line in ledger(place).lines}


# NVIDIA/TensorRT-LLM logs on an H100 80GB: (model, max_batch_size, max_seq_len, fraction, tokens of the KV pool).
# docs/source/performance/perf-benchmarking.md of 0.12 names Llama-2-7B, its engine and cache are those of GPT-J-6B.
LOGGED_POOLS = [
    ("gpt-j-6b", 4096, 4098, 0.99, 294_848),
    ("llama-2-7b", 256, 2048, 0.90, 259_840),  # docs/source/reference/memory.md
]


@pytest.mark.parametrize(("name", "batch", "seq_len", "fraction", "tokens"), LOGGED_POOLS)
def test_the_kv_pool_that_tensorrt_llm_logged(
    name: str, batch: int, seq_len: int, fraction: float, tokens: int
) -> None:
    limits = Limits(
        max_batch_size=batch,
        max_num_tokens=8192,
        max_seq_len=seq_len,
        kv_bits=8,
        tokens_per_block=64,
        free_gpu_memory_fraction=fraction,
    )
    place = Placement(shape=model(name), weight_bits=8, sku=H100, limits=limits)
    assert ledger(place).kv_tokens == pytest.approx(tokens, rel=0.02)


@pytest.mark.parametrize(
    ("name", "bits", "batch", "tokens", "lines", "mib"),
    [
        ("gpt-j-6b", 8, 4096, 8192, ("linear weights", "embedding", "head"), 6166),
        ("llama-2-7b", 8, 256, 8192, ("linear weights", "embedding", "head"), 6678),
        ("qwen2.5-0.5b", 8, 2048, 8192, ("logits and sampling",), (2.66 + 5.76) * 1024),
        ("qwen2.5-0.5b", 8, 1, 512, ("activations",), 43.26 - 32),
        # 128,000 tokens of context logits (gather_context_logits) are 31,312.5 MiB of the 37,812.5
        ("llama-3.1-8b", 16, 1, 128_000, ("activations",), 37_812.51 - 31_312.5),
    ],
)
def test_lines_hold_what_was_logged(
    name: str, bits: float, batch: int, tokens: int, lines: tuple[str, ...], mib: float
) -> None:
    limits = Limits(max_batch_size=batch, max_num_tokens=tokens)
    found = sizes(Placement(shape=model(name), weight_bits=bits, sku=H100, limits=limits))
    assert 0.99 * mib <= sum(found[line] for line in lines) / MIB <= 1.4 * mib


def test_llama_3_70b_in_16_and_in_4_bits() -> None:
    weights = ("linear weights", "scales", "embedding", "head", "norms, biases, routers")
    for bits, gigabytes in ((16, 141.1), (4.125, 39.5)):
        found = sizes(Placement(shape=model("llama-3-70b"), weight_bits=bits, sku=H100))
        assert sum(found.get(line, 0) for line in weights) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_70b_needs_two_h100_in_bf16_and_one_in_fp8() -> None:
    place = Placement(shape=model("llama-3-70b"), weight_bits=16, sku=H100)
    assert smallest_tp(place) == 2
    assert smallest_tp(replace(place, weight_bits=8)) == 1
    assert smallest_tp(replace(place, sku=find("b200_sxm"))) == 1
    assert smallest_tp(replace(place, pp_size=2)) == 1


def test_what_cannot_fit_is_refused_line_by_line_with_the_smallest_change() -> None:
    with pytest.raises(FitError) as caught:
        check_fits(Placement(shape=model("llama-3-70b"), weight_bits=16, sku=H100))
    assert caught.value.exit_code == 8
    for words in (
        "61.89 GB are missing",
        "linear weights             136.902 GB",
        "KV cache",
        "memory                      85.899 GB",
    ):
        assert words in caught.value.happened
    assert caught.value.fix == "set target.tp_size to 2"


EIGHT = Placement(shape=model("llama-3-8b"), weight_bits=16, sku=H100)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (EIGHT.with_limits(max_num_tokens=2_000_000), "lower build.max_num_tokens to"),
        (EIGHT.with_limits(max_batch_size=16384), "lower build.max_batch_size to 8192"),
        (EIGHT.with_limits(max_seq_len=600_000), "lower build.max_seq_len to"),
        (Placement(shape=model("llama-3-70b"), weight_bits=16, sku=H100), "set target.tp_size to 2"),
        (replace(EIGHT, sku=find("h100_sxm_1g_10gb")), "choose a precision with 4.5 bits a weight"),
        (replace(EIGHT, sku=find("a100_sxm_40gb_1g_5gb")), "use the whole a100_sxm_40gb"),
    ],
)
def test_every_remedy_is_offered_and_works(place: Placement, change: str) -> None:
    assert not ledger(place).fits
    text = smallest_change(place)
    assert text.startswith(change)
    if "build." in change:
        key, value = text.split()[1].removeprefix("build."), int(text.split()[-1])
        assert ledger(place.with_limits(**{key: value})).fits


def test_the_smallest_slice_that_is_enough() -> None:
    part = smallest_slice(EIGHT)
    assert part is not None
    assert part.id == "h100_sxm_1g_20gb"
    assert smallest_slice(replace(EIGHT, sku=part)) is part
    assert smallest_slice(replace(EIGHT, sku=find("l4"))) is None
    assert smallest_slice(Placement(shape=model("llama-3-70b"), weight_bits=8, sku=H100)) is None


def test_what_nothing_holds_is_refused() -> None:
    giant = replace(model("llama-3-70b"), num_hidden_layers=80_000)
    with pytest.raises(FitError, match="does not fit on l4"):
        smallest_tp(Placement(shape=giant, weight_bits=16, sku=find("l4")))


def test_a_draft_model_takes_weights_and_kv_cache() -> None:
    alone = ledger(EIGHT)
    both = ledger(replace(EIGHT, draft=model("llama-3.2-1b")))
    assert both.used_bytes - alone.used_bytes == pytest.approx(2 * 1.236e9, rel=0.001)
    assert both.kv_token_bytes - alone.kv_token_bytes == 32 * 1024


def test_a_machine_whose_memory_is_not_known_has_no_limit() -> None:
    made = ledger(replace(EIGHT, sku=find("cpu")))
    assert made.fits
    assert made.capacity_bytes is None


places = st.builds(
    lambda name, bits, sku, kv_bits, batch, tokens, seq_len: Placement(
        shape=model(name),
        weight_bits=bits,
        sku=sku,
        limits=Limits(max_batch_size=batch, max_num_tokens=tokens, max_seq_len=seq_len, kv_bits=kv_bits),
    ),
    st.sampled_from(["llama-3.2-1b", "llama-3-8b", "mixtral-8x7b", "llama-3-70b", "deepseek-v3"]),
    st.sampled_from([4, 4.125, 4.5, 8, 16]),
    st.sampled_from(GPUS),
    st.sampled_from([8, 16]),
    st.integers(1, 512),
    st.integers(256, 16384),
    st.integers(256, 32768),
)


@settings(max_examples=200, deadline=None)
@given(place=places)
def test_limits_fit_and_one_more_does_not(place: Placement) -> None:
    batch = largest_batch(place, place.limits.max_seq_len)
    if batch:
        held = ledger(place.with_limits(max_batch_size=batch))
        assert held.kv_pool_bytes * (1 + 1e-9) >= batch * held.sequence_bytes
    more = ledger(place.with_limits(max_batch_size=batch + 1))
    assert more.kv_pool_bytes < (batch + 1) * more.sequence_bytes
    tokens = largest_num_tokens(place)
    if tokens:
        assert ledger(place.with_limits(max_num_tokens=tokens)).fits
    assert not ledger(place.with_limits(max_num_tokens=tokens + 2 * place.limits.tokens_per_block)).fits
    longest = largest_seq_len(place)
    if longest:
        assert ledger(place.with_limits(max_seq_len=longest)).fits
    assert not ledger(place.with_limits(max_seq_len=longest + place.limits.tokens_per_block)).fits


@settings(max_examples=100, deadline=None)
@given(place=places)
def test_more_ranks_or_fewer_bits_never_need_more(place: Placement) -> None:
    used = [ledger(replace(place, tp_size=tp)).used_bytes for tp in (2, 4, 8, 16)]
    assert used == sorted(used, reverse=True)
    assert ledger(replace(place, weight_bits=4)).used_bytes <= ledger(place).used_bytes
    try:
        fewest = smallest_tp(place)
    except FitError:
        return
    assert ledger(replace(place, tp_size=fewest)).fits
