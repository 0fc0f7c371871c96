"""The `cpu` runtime: quantized checkpoint → OpenVINO IR for the continuous batching pipeline of OpenVINO GenAI.

It runs every precision by its weights alone: codes and scales as the checkpoint has them, and inputs in float32. What a
GPU loses by rounding activations as well is not seen here; `evaluate` is what measures that.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from builder.compile.openvino_ir.settings import TOKENS_PER_BLOCK, CpuEngineSettings, runtime_version
from builder.model_config import ModelConfig
from builder.plan import BuildPlan
from builder.quantize.schemes import Layout
from trtllm_kit.console import Talk
from trtllm_kit.errors import BuildStepError, HostError, SpecError
from trtllm_kit.files import disk_errors, pretty_json, read_json, write_text_atomic

LAYOUT: Layout = "hf"

_VERSION = "2026.4."
_MAX_STEP_TOKENS = 512  # a step holds Python's lock, so a longer one would delay every arriving request
_KV_PRECISIONS = {"auto": "f32", "float32": "f32", "float16": "f16", "int8": "u8"}

Rule = tuple[Callable[[BuildPlan], bool], Callable[[BuildPlan], str], str, str]
"""(whether the plan breaks it, what happened, what was expected, what to do)"""

_RULES: tuple[Rule, ...] = (
    (
        lambda plan: plan.world_size != 1,
        lambda plan: f"the cpu runtime cannot split a model over {plan.world_size} ranks",
        "tp_size 1 and pp_size 1",
        "set target.tp_size and target.pp_size to 1",
    ),
    (
        lambda plan: plan.build.max_beam_width != 1,
        lambda plan: f"the cpu runtime has no beam search (max_beam_width {plan.build.max_beam_width})",
        "max_beam_width 1",
        "set build.max_beam_width to 1",
    ),
    (
        lambda plan: plan.build.kv_cache_type != "paged" or plan.build.tokens_per_block != TOKENS_PER_BLOCK,
        lambda plan: (
            f"the cpu runtime has no {plan.build.kv_cache_type} KV cache of {plan.build.tokens_per_block} "
            "tokens a block"
        ),
        f"kv_cache_type paged, tokens_per_block {TOKENS_PER_BLOCK}",
        "remove both keys from build:",
    ),
    (
        lambda plan: plan.build.speculative_decoding_mode is not None,
        lambda plan: f"the cpu runtime does not serve speculative decoding ({plan.build.speculative_decoding_mode})",
        "no speculative_decoding_mode",
        "remove build.speculative_decoding_mode, or build for the tensorrt runtime",
    ),
    (
        lambda plan: plan.build.gather_context_logits or plan.build.gather_generation_logits,
        lambda plan: "the cpu runtime cannot return logits",
        "gather_context_logits and gather_generation_logits false",
        "remove both keys from build:",
    ),
    (
        lambda plan: plan.build.lora_plugin != "disable",
        lambda plan: "the cpu runtime has no LoRA",
        "lora_plugin disable",
        "remove build.lora_plugin, or build for the tensorrt runtime",
    ),
    (
        lambda plan: plan.kv_cache.dtype not in _KV_PRECISIONS,
        lambda plan: f"the cpu runtime cannot keep keys and values as {plan.kv_cache.dtype}",
        f"kv_cache.dtype one of {', '.join(_KV_PRECISIONS)}",
        "set kv_cache.dtype to auto",
    ),
    (
        lambda plan: plan.kv_cache.max_tokens is None,
        lambda plan: "the cpu runtime cannot size its KV cache by a fraction of GPU memory",
        "kv_cache.max_tokens: a number of tokens, or auto",
        "set kv_cache.max_tokens to auto",
    ),
    (
        lambda plan: (plan.kv_cache.max_tokens or 0) < plan.build.max_seq_len,
        lambda plan: (
            f"the KV cache holds {plan.kv_cache.max_tokens} tokens, less than one request of max_seq_len "
            f"{plan.build.max_seq_len}"
        ),
        "kv_cache.max_tokens of at least build.max_seq_len",
        "raise kv_cache.max_tokens or lower build.max_seq_len",
    ),
    (
        lambda plan: _exact_length(plan.checkpoint.config) < plan.build.max_seq_len,
        lambda plan: (
            f"max_seq_len {plan.build.max_seq_len} is beyond the {_exact_length(plan.checkpoint.config):g} tokens up "
            "to which the model's longrope has one set of frequencies, and the cpu runtime cannot change them between "
            "requests"
        ),
        "build.max_seq_len of at most original_max_position_embeddings, where the result is exact",
        "lower build.max_seq_len, or build for the tensorrt or pytorch runtime",
    ),
)


def check(plan: BuildPlan) -> None:
    """Refuse what this runtime or this machine cannot do: SpecError for the plan, HostError for the machine."""
    for broken, happened, expected, fix in _RULES:
        if broken(plan):
            raise SpecError(happened(plan), expected=expected, fix=fix)
    check_host()
    from builder.compile.openvino_ir.model import check_config

    check_config(plan.checkpoint.config)


def check_host() -> None:
    """HostError unless openvino-genai of the right line and a numpy that Triton's stub can use are installed."""
    from importlib import metadata

    version = runtime_version()
    if version is None or not version.startswith(_VERSION):
        raise HostError(
            f"openvino-genai is {'not installed' if version is None else version}",
            expected=f"openvino-genai {_VERSION}*, which the cpu runtime is built on",
            fix="pip install 'trtllm-kit[cpu]'",
        )
    numpy_version = metadata.version("numpy")
    if int(numpy_version.split(".", 1)[0]) >= 2:
        raise HostError(
            f"numpy is {numpy_version}; Triton's python backend then sends tensors without their content",
            expected="numpy below 2",
            fix="pip install 'trtllm-kit[cpu]'",
        )


def inputs(plan: BuildPlan) -> dict[str, Any]:
    """Settings of the engine, the installed runtime and the code that writes the IR."""
    return {"settings": asdict(_settings(plan, plan.checkpoint.config)), "writer": _writer_digest()}


def versions(plan: BuildPlan) -> dict[str, str]:
    """The runtime that must open the engine again."""
    return {"openvino_genai": runtime_version() or ""}


def facts(compiled: Path) -> dict[str, Any]:
    """How the weights of each kind are held: `native`, or what they are expanded to."""
    return {"weights": dict(CpuEngineSettings.read(compiled).weights)}


def compile(quantized: Path, plan: BuildPlan, out: Path, talk: Talk) -> None:  # noqa: A001 (the Protocol's name)
    """Write `openvino_model.xml`, `.bin`, `config.json` and `engine.json` into `out`.

    Raises SpecError where the checkpoint does not fit its config, BuildStepError where OpenVINO fails.
    """
    from builder.compile.openvino_ir.model import write_ir
    from builder.families import config_of

    raw = read_json(quantized / "config.json", "the quantized checkpoint's config.json")
    config = config_of(raw)
    talk.say(f"writing the OpenVINO IR of {config.num_hidden_layers} layers")
    if config.num_experts:
        talk.warn(
            f"this engine runs all {config.num_experts} experts on every token, and then counts the "
            f"{config.experts_per_token} that its router chose: exact, but as slow as a dense model of that size"
        )
    try:
        with disk_errors(out):
            weights = write_ir(quantized, config, out)
    except RuntimeError as error:  # openvino's only exception
        raise BuildStepError(
            f"OpenVINO could not write the model: {str(error).strip().splitlines()[-1]}",
            expected="a model that openvino accepts, and room on the disk",
            fix="free some space and build again; what was built before is kept",
        ) from error
    _check_whole(out)
    kept = {key: value for key, value in raw.items() if key != "quantization_config"}
    write_text_atomic(out / "config.json", pretty_json(kept))
    for kind, held in weights.items():
        talk.say(f"weights in {kind}: {held}")
    replace(_settings(plan, config), weights=weights).write(out)


def _settings(plan: BuildPlan, config: ModelConfig) -> CpuEngineSettings:
    pad = config.raw.get("pad_token_id")
    return CpuEngineSettings(
        max_batch_size=plan.build.max_batch_size,
        max_num_tokens=min(plan.build.max_num_tokens, _MAX_STEP_TOKENS),
        max_seq_len=plan.build.max_seq_len,
        num_kv_blocks=-(-(plan.kv_cache.max_tokens or 0) // TOKENS_PER_BLOCK) + 1,
        enable_block_reuse=plan.kv_cache.enable_block_reuse,
        kv_cache_precision=_KV_PRECISIONS[plan.kv_cache.dtype],
        inference_precision="f32",
        dynamic_quantization_group_size=0,
        vocab_size=config.vocab_size,
        eos_token_ids=config.eos_token_ids,
        pad_token_id=pad if isinstance(pad, int) else None,
        openvino_version=runtime_version() or "",
    )


def _exact_length(config: ModelConfig) -> float:
    from builder.compile.openvino_ir.rope import exact_length

    return exact_length(config.rope)


@functools.cache
def _writer_digest() -> str:
    """sha256 over the sources of the IR writer: other code may write another engine from the same checkpoint."""
    folder = Path(__file__).with_name("openvino_ir")
    sources = [Path(__file__), *sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


def _check_whole(out: Path) -> None:
    """openvino writes through a stream that swallows a full disk, so the end of the last constant is looked for."""
    text = (out / "openvino_model.xml").read_text(encoding="utf-8")
    ends = [int(start) + int(size) for start, size in re.findall(r'offset="(\d+)" size="(\d+)"', text)]
    written = (out / "openvino_model.bin").stat().st_size
    if not text.rstrip().endswith("</net>") or written < max(ends, default=0):
        raise BuildStepError(
            f"the model's files are not whole: {written} of {max(ends, default=0)} bytes of weights",
            expected="enough room for the engine on that disk",
            fix="free some space, or choose another store with --store or TRTLLM_KIT_STORE, and build again",
        )
