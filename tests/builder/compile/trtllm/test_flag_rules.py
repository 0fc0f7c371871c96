"""Upstream's rules between build flags, each from both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.compile.flag_rules import apply_rules, check_flags
from builder.compile.trtllm_facts import Facts
from builder.compile.trtllm_rules import RULES
from builder.model_config import ModelConfig, Rope
from builder.plan import BuildFlags
from trtllm_kit.errors import SpecError

OFF, ON = "disable", "enable"


@pytest.fixture
def facts(flags: BuildFlags) -> Callable[..., Facts]:
    """`facts(max_batch_size=..., sm=...)`: flags and surroundings, an FP16 Llama on an H100 unless told otherwise."""

    def make(**changes: Any) -> Facts:
        base = Facts(
            flags=flags,
            quant_algo=None,
            kv_quant_algo=None,
            sm=90,
            architecture="LlamaForCausalLM",
            tp_size=1,
            max_position_embeddings=4096,
            rope_factor=1.0,
        )
        outside = {name: value for name, value in changes.items() if name in asdict(base)}
        inside = {name: value for name, value in changes.items() if name not in outside}
        return replace(base, flags=replace(flags, **inside), **outside)

    return make


FP8 = {"quant_algo": "FP8", "kv_quant_algo": "FP8", "use_fp8_context_fmha": ON}
TP2 = {"tp_size": 2, "reduce_fusion": ON}

CHANGES: list[tuple[int, dict[str, Any], dict[str, Any]]] = [
    (1, {"max_input_len": 300}, {"max_input_len": 256}),
    (2, {"remove_input_padding": OFF}, {"max_num_tokens": 16 * 256}),
    (3, {"max_num_tokens": 99999}, {"max_num_tokens": 16 * 256}),
    (3, {"max_num_tokens": 8}, {"max_num_tokens": 32}),
    (3, {"max_num_tokens": 64, "context_fmha": OFF}, {"max_num_tokens": 128}),
    (4, {"opt_num_tokens": 2000}, {"opt_num_tokens": 1024}),
    (5, {"context_fmha": OFF}, {"use_paged_context_fmha": OFF}),
    (6, {"use_fp8_context_fmha": ON}, {"use_fp8_context_fmha": OFF}),
    (6, {"quant_algo": "W4A16_AWQ", "use_fused_mlp": OFF, "kv_quant_algo": "FP8"}, {"use_paged_context_fmha": OFF}),
    (6, {**FP8, "sm": 80}, {"use_fp8_context_fmha": OFF, "use_paged_context_fmha": OFF}),
    (7, {"quant_algo": "FP8", "use_fp8_context_fmha": ON}, {"use_fp8_context_fmha": OFF}),
    (7, {**FP8, "use_fp8_context_fmha": OFF}, {"use_fp8_context_fmha": ON}),
    (8, {"kv_quant_algo": "INT8"}, {"use_paged_context_fmha": OFF}),
    (11, {"quant_algo": "W8A16"}, {"use_fused_mlp": OFF}),
    (12, {"reduce_fusion": ON}, {"reduce_fusion": OFF}),
    (12, {**TP2, "architecture": "Qwen2ForCausalLM"}, {"reduce_fusion": OFF}),
    (12, {"user_buffer": ON}, {"user_buffer": OFF}),
    (12, {"norm_quant_fusion": ON}, {"norm_quant_fusion": OFF}),
    (13, {"quant_algo": "NVFP4", "sm": 120, "use_fused_mlp": OFF}, {"gemm_plugin": "nvfp4"}),
    (
        14,
        {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN", "use_fused_mlp": OFF},
        {"fp8_rowwise_gemm_plugin": "auto"},
    ),
    (15, {"speculative_decoding_mode": "medusa", "max_draft_len": 99}, {"max_num_tokens": 1600}),
    (15, {"speculative_decoding_mode": "eagle", "use_paged_context_fmha": OFF}, {"use_paged_context_fmha": ON}),
]


@pytest.mark.parametrize(("rule", "given_facts", "changed"), CHANGES)
def test_what_upstream_changes_silently_is_said(
    rule: int, given_facts: dict[str, Any], changed: dict[str, Any], facts: Callable[..., Facts]
) -> None:
    before = facts(**given_facts)
    after, findings = apply_rules(before)
    said = " ".join(finding.text for finding in findings if finding.text.endswith(f"(rule {rule})"))
    for name, value in changed.items():
        assert getattr(after, name) == value
        assert f"{name} {getattr(before.flags, name)} becomes {value}" in said


QUIET: list[dict[str, Any]] = [
    {},
    {"max_input_len": 256},
    {"max_num_tokens": 32},
    {"max_num_tokens": 16 * 256},
    {"context_fmha": OFF, "use_paged_context_fmha": OFF, "max_num_tokens": 128},
    {"opt_num_tokens": 1024},
    {"multiple_profiles": ON},
    FP8,
    {"quant_algo": "FP8", "kv_quant_algo": "FP8", "use_fp8_context_fmha": ON, "sm": 89},
    {"quant_algo": "FP8", "use_fp8_context_fmha": ON, "use_paged_context_fmha": OFF},
    {"kv_quant_algo": "INT8", "use_paged_context_fmha": OFF},
    {"quant_algo": "FP8", "use_fused_mlp": ON},
    TP2,
    {**TP2, "architecture": "Gemma2ForCausalLM", "user_buffer": ON},
    {"quant_algo": "NVFP4", "gemm_plugin": OFF, "sm": 120, "norm_quant_fusion": ON, "use_fused_mlp": OFF},
    {"quant_algo": "W4A16_AWQ", "use_fused_mlp": OFF, "sm": 120},
    {"quant_algo": "FP8", "sm": 100},
    {"gemm_swiglu_plugin": "fp8", "quant_algo": "FP8"},
    {"speculative_decoding_mode": "eagle"},
    {"gather_context_logits": True},
    {"pp_reduce_scatter": ON, "architecture": "MixtralForCausalLM"},
]


@pytest.mark.parametrize("given_facts", QUIET)
def test_what_upstream_leaves_alone_is_not_mentioned(given_facts: dict[str, Any], facts: Callable[..., Facts]) -> None:
    before = facts(**given_facts)
    assert apply_rules(before) == (before.flags, [])


REFUSALS: list[tuple[int, dict[str, Any], str]] = [
    (0, {"gpt_attention_plugin": OFF}, "in-flight batching"),
    (0, {"remove_input_padding": OFF}, "in-flight batching"),
    (0, {"kv_cache_type": "continuous"}, "in-flight batching"),
    (4, {"multiple_profiles": ON, "opt_num_tokens": 8}, "multiple_profiles"),
    (9, {"quant_algo": "W8A16", "sm": 100}, "weight-only INT8 on SM 100"),
    (9, {"quant_algo": "W4A16", "sm": 103}, "weight-only INT4 on SM 103"),
    (9, {"quant_algo": "W4A16_AWQ", "sm": 119}, "AWQ"),
    (9, {"quant_algo": "W4A8_AWQ", "sm": 100}, "AWQ"),
    (9, {"quant_algo": "W8A8_SQ_PER_CHANNEL", "sm": 100}, "SmoothQuant"),
    (9, {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN", "sm": 100}, "rowwise"),
    (9, {"kv_quant_algo": "INT8", "sm": 100}, "INT8 KV"),
    (10, {"gemm_swiglu_plugin": "fp8", "sm": 100}, "gemm_swiglu_plugin on SM 100"),
    (10, {"fp8_rowwise_gemm_plugin": "auto", "sm": 100}, "fp8_rowwise_gemm_plugin"),
    (10, {"low_latency_gemm_plugin": "fp8", "sm": 100}, "low_latency_gemm_plugin"),
    (10, {"bert_context_fmha_fp32_acc": ON, "sm": 100}, "bert_context_fmha_fp32_acc"),
    (11, {"gemm_swiglu_plugin": "fp8", "use_fused_mlp": OFF}, "without use_fused_mlp"),
    (11, {"low_latency_gemm_swiglu_plugin": "fp8", "quant_algo": "W8A16"}, "without use_fused_mlp"),
    (13, {"streamingllm": ON}, "streamingllm"),
    (13, {"pp_reduce_scatter": ON}, "Mixtral"),
    (13, {"gather_context_logits": True, "max_draft_len": 4}, "gather_context_logits"),
    (15, {"speculative_decoding_mode": "eagle", "max_batch_size": 513}, "EAGLE"),
    (15, {"speculative_decoding_mode": "eagle", "max_draft_len": 257}, "EAGLE"),
]


@pytest.mark.parametrize(("rule", "given_facts", "words"), REFUSALS)
def test_what_upstream_raises_for_is_refused(
    rule: int, given_facts: dict[str, Any], words: str, facts: Callable[..., Facts]
) -> None:
    _, findings = apply_rules(facts(**given_facts))
    refused = [finding.text for finding in findings if finding.refused]
    assert any(words in text and text.endswith(f"(rule {rule})") for text in refused), refused


def test_every_rule_is_tested_here() -> None:
    tested = {row[0] for row in CHANGES} | {row[0] for row in REFUSALS}
    assert tested == {rule.id for rule in RULES} == set(range(16))


def check(flags: BuildFlags, config: ModelConfig, **changes: Any) -> tuple[BuildFlags, list[str]]:
    surroundings = {"runtime": "tensorrt", "precision": "bf16", "kv_dtype": "auto", "sm": 90, "tp_size": 1}
    return check_flags(flags, config=config, **{**surroundings, **changes})


def test_all_refusals_come_at_once(flags: BuildFlags, model_config: ModelConfig) -> None:
    wrong = replace(flags, streamingllm=ON, multiple_profiles=ON, opt_num_tokens=8)
    with pytest.raises(SpecError) as caught:
        check(wrong, model_config, precision="int8_wo", sm=100)
    for words in ("streamingllm", "multiple_profiles", "weight-only INT8"):
        assert words in caught.value.happened


def test_the_flags_come_back_as_upstream_will_use_them(flags: BuildFlags, model_config: ModelConfig) -> None:
    after, warnings = check(replace(flags, max_num_tokens=10**6), model_config, precision="int8_wo")
    assert (after.max_num_tokens, after.use_fused_mlp) == (4096, OFF)
    assert len(warnings) == 2


def test_other_runtimes_keep_to_the_lengths(flags: BuildFlags, model_config: ModelConfig) -> None:
    odd = replace(flags, streamingllm=ON, max_num_tokens=10**6, max_input_len=300)
    after, warnings = check(odd, model_config, runtime="cpu", sm=None)
    assert after == replace(odd, max_input_len=256)
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("kind", "factor", "warned"), [("linear", 2.0, False), ("llama3", 8.0, True), ("default", 1.0, True)]
)
def test_rotary_scaling_stretches_the_positions_where_upstream_says_so(
    kind: str, factor: float, warned: bool, flags: BuildFlags, model_config: ModelConfig
) -> None:
    scaling = {} if kind == "default" else {"rope_type": kind, "factor": factor}
    stretched = replace(model_config, rope=Rope(theta=1e4, scaling=scaling))
    _, warnings = check(replace(flags, max_seq_len=model_config.max_position_embeddings * 2), stretched)
    assert any("positions" in text for text in warnings) is warned


switches = st.sampled_from([ON, OFF])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_rules_settle_and_keep_their_promises(data: st.DataObject, facts: Callable[..., Facts]) -> None:
    """Applied twice they change nothing more, and the token limits hold afterwards."""
    start = facts(
        max_batch_size=data.draw(st.integers(1, 4096)),
        max_seq_len=data.draw(st.integers(32, 8192)),
        max_input_len=data.draw(st.integers(1, 9000)),
        max_num_tokens=data.draw(st.integers(1, 100_000)),
        opt_num_tokens=data.draw(st.none() | st.integers(1, 100_000)),
        context_fmha=data.draw(switches),
        use_paged_context_fmha=data.draw(switches),
        use_fp8_context_fmha=data.draw(switches),
        reduce_fusion=data.draw(switches),
        user_buffer=data.draw(switches),
        use_fused_mlp=data.draw(switches),
        quant_algo=data.draw(st.sampled_from([None, "W8A16", "FP8", "NVFP4", "W4A8_AWQ"])),
        kv_quant_algo=data.draw(st.sampled_from([None, "FP8", "INT8"])),
        sm=data.draw(st.sampled_from([80, 89, 90, 120])),
        tp_size=data.draw(st.sampled_from([1, 2])),
    )
    after, _ = apply_rules(start)
    again, _ = apply_rules(replace(start, flags=after))
    assert again == after
    assert after.max_input_len <= after.max_seq_len
    assert after.max_num_tokens >= min(after.tokens_per_block, after.max_input_len)
    assert after.opt_num_tokens is None or after.opt_num_tokens <= after.max_num_tokens
    if after.use_fp8_context_fmha == ON:
        assert start.quant_algo in ("FP8", "NVFP4", "W4A8_AWQ")
        assert start.sm >= 89
    if start.kv_quant_algo == "INT8":
        assert after.use_paged_context_fmha == OFF
