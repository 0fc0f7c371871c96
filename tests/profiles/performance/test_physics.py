"""What must hold for any replica: more hardware is never slower, nothing beats the roofline, memory ends the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiles import precisions, skus
from profiles.model_shape import find
from profiles.performance import Setup, at_concurrency, max_throughput
from profiles.performance.columns import Question, columns
from profiles.performance.constants import constants_of
from profiles.performance.hardware import MXFP4, device
from profiles.performance.model import predict
from profiles.performance.step import communication_s, linear_s, roofline_s
from profiles.skus import Sku

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-20b", "qwen2.5-14b")
SKUS = ("h100_sxm", "h200_sxm", "a100_sxm_80gb", "l40s", "b200_sxm", "rtx_pro_6000", "gh200_96gb", "l4", "b300_sxm")
PRECISIONS = ("bf16", "fp8", "nvfp4", "int4_awq", "int8_sq")


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    shape = find(draw(st.sampled_from(MODELS)))
    tp = draw(st.sampled_from((1, 2, 4, 8)))
    return Setup(
        shape=shape,
        precision=draw(st.sampled_from(PRECISIONS)),
        kv_bits=draw(st.sampled_from((8, 16))),
        sku=skus.find(draw(st.sampled_from(SKUS))),
        tp_size=tp,
        pp_size=draw(st.sampled_from((1, 2))),
        attention_dp=shape.is_moe and tp > 1 and draw(st.booleans()),
        trtllm_version=draw(st.sampled_from(("0.17.0", "1.2.1"))),
    )


lengths = st.integers(64, 16384)
factors = st.floats(1.01, 4.0)
checked = settings(max_examples=200, deadline=None)


def grown(sku: Sku, what: str, factor: float) -> Sku:
    """`sku` with more of one thing. Facts that it lacks are taken from where predictions take them."""
    gpu = device(sku, "bf16")
    full = replace(sku, bandwidth_gbs=gpu.bandwidth / 1e9)
    if what == "bandwidth":
        return replace(full, bandwidth_gbs=full.bandwidth_gbs * factor)
    if what == "memory":
        return replace(full, nvml_memory_mib=int((full.memory_bytes or 0) / skus.MIB * factor))
    rates: Mapping[str, Any] = {name: rate and rate * factor for name, rate in full.dense_tflops.items()}
    return replace(full, dense_tflops=rates)


@checked
@given(setup=setups(), isl=lengths, osl=lengths, factor=factors, what=st.sampled_from(("bandwidth", "memory", "rates")))
def test_more_hardware_never_predicts_less(setup: Setup, isl: int, osl: int, factor: float, what: str) -> None:
    before = max_throughput(replace(setup, sku=grown(setup.sku, what, 1.0)), isl, osl).value
    after = max_throughput(replace(setup, sku=grown(setup.sku, what, factor)), isl, osl).value
    assert after >= before * (1 - 1e-9)


TWO_AT_EXPERTS = Setup(
    shape=find("gpt-oss-20b"),
    precision="bf16",
    kv_bits=8,
    sku=skus.find("h100_sxm"),
    tp_size=1,
    trtllm_version="0.17.0",
)


@checked
@given(setup=setups(), isl=lengths, osl=lengths, concurrency=st.integers(1, 500), more=st.integers(1, 500))
@example(setup=TWO_AT_EXPERTS, isl=744, osl=64, concurrency=1, more=1)
def test_throughput_rises_with_concurrency_and_so_does_the_wait(
    setup: Setup, isl: int, osl: int, concurrency: int, more: int
) -> None:
    few = at_concurrency(setup, isl, osl, concurrency)
    many = at_concurrency(setup, isl, osl, concurrency + more)
    assert many.output_tokens_per_s.value >= few.output_tokens_per_s.value * (1 - 1e-6)
    assert many.ttft_ms.value >= few.ttft_ms.value * (1 - 1e-9)
    assert many.tpot_ms.value >= few.tpot_ms.value * (1 - 1e-9)
    assert many.batch >= few.batch


def test_the_wait_begins_without_a_corner() -> None:
    """Whole answers of waiting must not hang on the last byte of memory, which nobody knows."""
    setup = Setup(shape=find("llama-3.1-8b"), precision="fp8", kv_bits=8, sku=skus.find("h100_sxm"), tp_size=1)
    room = int(at_concurrency(setup, 1000, 1000, 1_000_000).batch)
    waits = [at_concurrency(setup, 1000, 1000, users).ttft_ms.value for users in range(room * 4 // 5, room * 6 // 5)]
    steps = np.diff(waits)
    assert steps[-1] > 10 * steps[0]
    assert (steps[1:] / steps[:-1]).max() < 1.2


@checked
@given(setup=setups(), isl=lengths, osl=lengths, concurrency=st.integers(1, 4096))
def test_nothing_beats_the_roofline(setup: Setup, isl: int, osl: int, concurrency: int) -> None:
    seen = at_concurrency(setup, isl, osl, concurrency)
    asked = columns([Question(setup, isl, osl, concurrency=concurrency)])
    bound = setup.pp_size * roofline_s(asked, np.array([seen.batch / setup.pp_size / asked.dp[0]]), np.zeros(1))[0]
    assert seen.tpot_ms.value >= 1e3 * bound * (1 - 1e-9)
    assert seen.output_tokens_per_s.value <= seen.batch / bound * (1 + 1e-9)


@checked
@given(setup=setups(), isl=lengths, osl=lengths)
def test_intervals_hold_the_value_and_say_what_they_rest_on(setup: Setup, isl: int, osl: int) -> None:
    found = max_throughput(setup, isl, osl)
    assert 0 < found.low < found.value < found.high
    assert found.calibrated != found.basis.startswith("uncalibrated")


def test_reading_70b_weights_at_two_terabytes_a_second() -> None:
    """The worked numbers: 70 ms in 16 bits, 35 in 8, 17.5 in 4, for one sequence without any context."""
    seventy = replace(
        find("llama-3.1-70b"), num_hidden_layers=80, intermediate_size=28672, vocab_size=1
    )  # its linears alone, scaled to 70.0 billion below
    rows = {"bf16": 70.0, "int8_wo": 35.0, "int4_wo": 17.5}
    sku = replace(skus.find("a100_sxm_80gb"), bandwidth_gbs=2000.0)
    for precision, milliseconds in rows.items():
        setup = Setup(shape=seventy, precision=precision, kv_bits=16, sku=sku, tp_size=1)
        asked = columns([Question(setup, 1, 1, concurrency=1)])
        bound = roofline_s(asked, np.zeros(1), np.zeros(1))[0] * 70.0e9 / seventy.linear_params
        assert 1e3 * bound == pytest.approx(milliseconds, rel=1e-6)


@pytest.mark.parametrize("precision", [*precisions.precisions(), MXFP4])
def test_every_precision_can_be_asked_for(precision: str) -> None:
    setup = Setup(shape=find("llama-3-8b"), precision=precision, kv_bits=8, sku=skus.find("h100_sxm"), tp_size=1)
    assert max_throughput(setup, 1000, 1000).value > 0


def test_memory_ends_the_batch() -> None:
    setup = Setup(
        shape=find("llama-3-8b"),
        precision="fp16",
        kv_bits=16,
        sku=skus.find("h100_sxm"),
        tp_size=1,
        kv_memory_bytes=64 * 2**30,
    )
    assert at_concurrency(setup, 2048, 2048, 4000).batch == pytest.approx(128, rel=0.01)  # 64 GiB over 0.5 GiB each
    assert at_concurrency(setup, 2048, 2048, 16).batch == pytest.approx(16, rel=0.01)
    limited = replace(setup, max_batch_size=32)
    assert at_concurrency(limited, 2048, 2048, 4000).batch == pytest.approx(32, rel=0.01)


def test_a_gpu_of_an_unknown_kind_is_said_to_be_uncalibrated() -> None:
    setup = Setup(shape=find("llama-3-8b"), precision="fp8", kv_bits=8, sku=skus.find("b300_sxm"), tp_size=1)
    found = max_throughput(setup, 1000, 1000)
    assert not found.calibrated
    assert found.basis.startswith("uncalibrated")
    assert found.high / found.low > 3


def test_an_unseen_sku_of_a_known_architecture_has_a_wider_interval() -> None:
    def width(sku: str) -> float:
        setup = Setup(shape=find("llama-3-8b"), precision="fp8", kv_bits=8, sku=skus.find(sku), tp_size=1)
        found = max_throughput(setup, 1000, 1000)
        return found.high / found.low

    assert width("h100_pcie") > width("h100_sxm")


def test_a_question_has_the_same_answer_alone_and_among_others() -> None:
    setup = Setup(shape=find("llama-3-8b"), precision="fp8", kv_bits=8, sku=skus.find("h100_sxm"), tp_size=1)
    other = replace(setup, shape=find("mixtral-8x7b"), sku=skus.find("l40s"), tp_size=4)
    alone = predict([Question(setup, 1000, 1000, concurrency=64)])[0]
    among = predict([Question(other, 128, 2048), Question(setup, 1000, 1000, concurrency=64)])[1]
    assert among.operating.tpot_ms.value == pytest.approx(alone.operating.tpot_ms.value, rel=1e-12)
    assert among.operating.ttft_ms.basis == alone.operating.ttft_ms.basis


def _replica(model: str, precision: str, version: str, tp_size: int = 1, **changes: Any) -> Setup:
    bits = 16 if precision == "bf16" else 8
    return Setup(
        shape=find(model),
        precision=precision,
        kv_bits=bits,
        sku=skus.find("h200_sxm"),
        tp_size=tp_size,
        trtllm_version=version,
        **changes,
    )


@pytest.mark.parametrize(
    ("model", "tp_size", "before", "after"),
    [("llama-3-8b", 1, 3674.33, 11193.29), ("llama-2-70b", 8, 9271.77, 10034.12)],
)
def test_0_10_reads_the_cache_once_for_each_query_head_except_in_groups_of_eight(
    model: str, tp_size: int, before: float, after: float
) -> None:
    """FP8 on an H200, 2048 in and out: the pages of 0.10.0 and 0.11.0."""
    for version, published in (("0.10.0", before), ("0.11.0", after)):
        found = max_throughput(_replica(model, "fp8", version, tp_size), 2048, 2048)
        assert found.value == pytest.approx(published, rel=0.15)


@pytest.mark.parametrize(("precision", "bytes_sent"), [("bf16", 2.0), ("fp8", 1.0)])
def test_attention_data_parallelism_exchanges_tokens_once_a_layer(precision: str, bytes_sent: float) -> None:
    """Out in the GEMM's precision, back in 16 bits; TP exchanges twice a layer, both ways in 16 bits."""
    replicas = [_replica("qwen3-30b-a3b", precision, "1.1", 4, attention_dp=ranks) for ranks in (False, True)]
    facts = columns([Question(replica, 1000, 1000) for replica in replicas])
    constants = {**constants_of(facts), "allreduce_latency_s": np.zeros(2)}
    everyone = 4096.0
    tensor, data = communication_s(facts, constants, everyone / facts.dp)
    assert data / tensor == pytest.approx((bytes_sent + 2) / (2 * 4))


def test_experts_that_tp_cuts_are_slower_than_those_that_ep_deals_out() -> None:
    """768 wide: at TP 8 each GPU has 96 of it."""
    replicas = [_replica("qwen3-30b-a3b", "bf16", "1.1", 8, ep_size=ep) for ep in (1, 8)]
    facts = columns([Question(replica, 1000, 1000) for replica in replicas])
    cut, dealt = linear_s(facts, constants_of(facts), np.full(2, 1e6))
    assert cut > 1.5 * dealt
