"""Upstream's own rules between build flags, one function each, in the order in which upstream applies them.

`trtllm-build` refuses some combinations after minutes, and silently changes others.
Source: builder.py, commands/build.py and _common.py of TensorRT-LLM 1.3.0rc3, read 2026-11-20.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from builder.compile.trtllm_facts import Facts, Finding, Rule

_FP8_FMHA_ALGOS = frozenset({"FP8", "W4A8_AWQ", "NVFP4"})
_FUSED_MLP_ALGOS = frozenset({None, "FP8", "MIXED_PRECISION"})
_REDUCE_FUSION_MODELS = frozenset({"LlamaForCausalLM", "Gemma2ForCausalLM", "MedusaForCausalLM"})
_NOT_ON_DATACENTER_BLACKWELL: Mapping[str, str] = {
    "W8A16": "weight-only INT8",
    "W4A16": "weight-only INT4",
    "W4A16_AWQ": "AWQ",
    "W4A8_AWQ": "AWQ",
    "W8A8_SQ_PER_CHANNEL": "SmoothQuant",
    "FP8_PER_CHANNEL_PER_TOKEN": "rowwise FP8",
}
_RECOMMENDED_TOKENS = 16384
_EAGLE_MAX_BATCH_SIZE, _EAGLE_MAX_DRAFT_LEN = 512, 256


def _in_flight_batching(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    if flags.gpt_attention_plugin == "disable":
        yield Finding(text="gpt_attention_plugin disable: in-flight batching needs the plugin", refused=True)
    if flags.remove_input_padding == "disable":
        yield Finding(text="remove_input_padding disable: in-flight batching packs its input", refused=True)
    if flags.kv_cache_type != "paged":
        yield Finding(text=f"kv_cache_type {flags.kv_cache_type}: in-flight batching needs paged KV", refused=True)


def _lengths(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    reach = math.ceil(facts.max_position_embeddings * facts.rope_factor)
    if flags.max_seq_len > reach:
        beyond = f"max_seq_len {flags.max_seq_len} is beyond the model's {reach} positions"
        yield Finding(text=f"{beyond}, accuracy may suffer")
    if flags.max_input_len > flags.max_seq_len:
        yield Finding(text="a prompt is part of its sequence", changes={"max_input_len": flags.max_seq_len})


def _padding(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    if flags.remove_input_padding == "disable":
        tokens = flags.max_batch_size * flags.max_seq_len
        yield Finding(text="with padded input the value is ignored", changes={"max_num_tokens": tokens})


def _num_tokens(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    if flags.remove_input_padding == "disable":
        return
    most, fmha = flags.max_batch_size * flags.max_seq_len, flags.context_fmha == "enable"
    least = flags.tokens_per_block if fmha else flags.max_input_len
    tokens = min(flags.max_num_tokens, most)
    if tokens > _RECOMMENDED_TOKENS:
        yield Finding(text=f"max_num_tokens {tokens} above {_RECOMMENDED_TOKENS} is not recommended")
    if tokens < flags.max_num_tokens:
        yield Finding(text="no batch holds more tokens", changes={"max_num_tokens": tokens})
    if tokens < least:
        block = "one KV block is the least, and chunked context becomes mandatory"
        prompt = "without context FMHA a whole prompt must fit"
        yield Finding(text=block if fmha else prompt, changes={"max_num_tokens": least})


def _opt_num_tokens(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    if flags.opt_num_tokens is None:
        return
    if flags.multiple_profiles == "enable":
        yield Finding(text="multiple_profiles enable together with opt_num_tokens", refused=True)
    if flags.opt_num_tokens > flags.max_num_tokens:
        yield Finding(text="it cannot exceed max_num_tokens", changes={"opt_num_tokens": flags.max_num_tokens})


def _fusions(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    reduces = flags.reduce_fusion == "enable"
    if reduces and (facts.tp_size == 1 or facts.architecture not in _REDUCE_FUSION_MODELS):
        yield Finding(text="it needs tp_size > 1 and a Llama or Gemma 2", changes={"reduce_fusion": "disable"})
        reduces = False
    if flags.user_buffer == "enable" and not reduces:
        yield Finding(text="it needs reduce_fusion", changes={"user_buffer": "disable"})
    llama_fp4 = facts.architecture == "LlamaForCausalLM" and facts.quant_algo == "NVFP4"
    if flags.norm_quant_fusion == "enable" and (reduces or not llama_fp4):
        yield Finding(text="it needs an NVFP4 Llama without reduce_fusion", changes={"norm_quant_fusion": "disable"})


def _speculation(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    if flags.speculative_decoding_mode is None:
        return
    if flags.max_draft_len:
        yield Finding(
            text=f"the engine's max_seq_len will be {flags.max_seq_len} + max_draft_len {flags.max_draft_len}"
        )
    tokens = flags.max_batch_size * (flags.max_draft_len + 1)
    if flags.max_num_tokens < tokens:
        yield Finding(text="each sequence brings its draft", changes={"max_num_tokens": tokens})
    if flags.speculative_decoding_mode != "eagle":
        return
    if flags.max_batch_size > _EAGLE_MAX_BATCH_SIZE or flags.max_draft_len > _EAGLE_MAX_DRAFT_LEN:
        limits = f"max_batch_size {_EAGLE_MAX_BATCH_SIZE} and max_draft_len {_EAGLE_MAX_DRAFT_LEN}"
        yield Finding(text=f"EAGLE goes up to {limits}", refused=True)
    yield Finding(text="EAGLE needs it", changes={"use_paged_context_fmha": "enable"})


def _no_fmha(facts: Facts) -> Iterator[Finding]:
    if facts.flags.context_fmha == "disable":
        off = {"use_fp8_context_fmha": "disable", "use_paged_context_fmha": "disable"}
        yield Finding(text="both need context_fmha", changes=off)


def _fp8_fmha_unavailable(facts: Facts) -> bool:
    return facts.quant_algo not in _FP8_FMHA_ALGOS or facts.sm < 89


def _fp8_fmha(facts: Facts) -> Iterator[Finding]:
    if facts.flags.context_fmha == "disable" or not _fp8_fmha_unavailable(facts):
        return
    yield Finding(text="it needs FP8 math and SM 89 or newer", changes={"use_fp8_context_fmha": "disable"})
    if facts.kv_quant_algo == "FP8":
        yield Finding(
            text="an FP8 KV cache without FP8 math has no KV cache reuse and no chunked prefill",
            changes={"use_paged_context_fmha": "disable"},
        )


def _fp8_paged_fmha(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    paged = flags.context_fmha == flags.use_paged_context_fmha == "enable"
    if not paged or _fp8_fmha_unavailable(facts):
        return
    fp8_kv = facts.kv_quant_algo == "FP8"
    yield Finding(
        text=f"paged context FMHA over {'an' if fp8_kv else 'no'} FP8 KV cache decides it",
        changes={"use_fp8_context_fmha": "enable" if fp8_kv else "disable"},
    )


def _int8_kv(facts: Facts) -> Iterator[Finding]:
    if facts.kv_quant_algo == "INT8":
        yield Finding(text="it does not work on an INT8 KV cache", changes={"use_paged_context_fmha": "disable"})


def _datacenter_blackwell(facts: Facts) -> Iterator[Finding]:
    if not 100 <= facts.sm < 120:
        return
    scheme = _NOT_ON_DATACENTER_BLACKWELL.get(facts.quant_algo or "")
    if scheme:
        yield Finding(text=f"{scheme} on SM {facts.sm}", refused=True)
    if facts.kv_quant_algo == "INT8":
        yield Finding(text=f"an INT8 KV cache on SM {facts.sm}", refused=True)


def _sm100_plugins(facts: Facts) -> Iterator[Finding]:
    if facts.sm != 100:
        return
    for name in (
        "gemm_swiglu_plugin",
        "fp8_rowwise_gemm_plugin",
        "low_latency_gemm_plugin",
        "low_latency_gemm_swiglu_plugin",
        "bert_context_fmha_fp32_acc",
    ):
        if getattr(facts.flags, name) != "disable":
            yield Finding(text=f"{name} on SM 100", refused=True)


def _fused_mlp(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    if facts.quant_algo not in _FUSED_MLP_ALGOS:
        yield Finding(text=f"{facts.quant_algo} has no fused MLP", changes={"use_fused_mlp": "disable"})
    fused = flags.use_fused_mlp == "enable" and facts.quant_algo in _FUSED_MLP_ALGOS
    for name in ("gemm_swiglu_plugin", "low_latency_gemm_swiglu_plugin"):
        if getattr(flags, name) != "disable" and not fused:
            yield Finding(text=f"{name} without use_fused_mlp", refused=True)


def _single_flags(facts: Facts) -> Iterator[Finding]:
    flags = facts.flags
    if facts.quant_algo == "NVFP4" and flags.gemm_plugin != "disable":
        yield Finding(text="NVFP4 has its own GEMM unless it is disabled", changes={"gemm_plugin": "nvfp4"})
    if flags.streamingllm == "enable":
        yield Finding(text="streamingllm is no longer supported", refused=True)
    if flags.pp_reduce_scatter == "enable" and facts.architecture != "MixtralForCausalLM":
        yield Finding(text=f"pp_reduce_scatter with {facts.architecture}: it is for Mixtral only", refused=True)
    if flags.gather_context_logits and flags.max_draft_len > 0:
        yield Finding(text="gather_context_logits together with max_draft_len", refused=True)


def _rowwise_plugin(facts: Facts) -> Iterator[Finding]:
    if facts.quant_algo == "FP8_PER_CHANNEL_PER_TOKEN" and facts.flags.fp8_rowwise_gemm_plugin == "disable":
        yield Finding(text="the checkpoint's quantization turns it on", changes={"fp8_rowwise_gemm_plugin": "auto"})


LENGTHS = Rule(
    id=1, text="max_input_len is clipped to max_seq_len; a max_seq_len beyond the positions warns", find=_lengths
)

RULES: tuple[Rule, ...] = (
    Rule(id=0, text="in-flight batching needs its plugin, packed input and paged KV", find=_in_flight_batching),
    LENGTHS,
    Rule(id=2, text="without remove_input_padding, max_num_tokens is max_batch_size × max_seq_len", find=_padding),
    Rule(id=3, text="max_num_tokens lies between tokens_per_block and max_batch_size × max_seq_len", find=_num_tokens),
    Rule(id=4, text="opt_num_tokens excludes multiple_profiles and stays below max_num_tokens", find=_opt_num_tokens),
    Rule(id=12, text="reduce_fusion, user_buffer and norm_quant_fusion have their models", find=_fusions),
    Rule(id=15, text="speculative decoding raises max_seq_len and max_num_tokens; EAGLE has limits", find=_speculation),
    Rule(id=5, text="without context_fmha, paged and FP8 context FMHA are off", find=_no_fmha),
    Rule(id=6, text="FP8 context FMHA needs FP8, W4A8_AWQ or NVFP4 and SM 89", find=_fp8_fmha),
    Rule(id=7, text="paged context FMHA decides FP8 context FMHA by the KV cache", find=_fp8_paged_fmha),
    Rule(id=8, text="an INT8 KV cache has no paged context FMHA", find=_int8_kv),
    Rule(id=9, text="SM 100 to 119 have no INT8, INT4, AWQ, SmoothQuant or rowwise FP8", find=_datacenter_blackwell),
    Rule(id=10, text="SM 100 lacks some plugins", find=_sm100_plugins),
    Rule(id=11, text="SwiGLU plugins need use_fused_mlp, which not every quantization has", find=_fused_mlp),
    Rule(id=13, text="NVFP4's GEMM, StreamingLLM, pp_reduce_scatter, context logits with drafts", find=_single_flags),
    Rule(id=14, text="weight plugins follow from the checkpoint's quantization", find=_rowwise_plugin),
)
