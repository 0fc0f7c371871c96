"""The `pytorch` runtime: nothing is compiled; the unified Hugging Face checkpoint gets the `model.yaml` to serve it.

`model.yaml` is made of the LlmArgs fields that TensorRT-LLM 1.0 and the newest main have in common, because all of
these classes refuse an unknown field. A field at upstream's default is left out where older versions lack it.
Source: llmapi/llm_args.py of TensorRT-LLM 1.3.0rc3 and of main in autumn 2026, read 2026-11-20.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from builder.plan import BuildPlan
from builder.quantize.schemes import Layout
from profiles.versions import DEFAULT, PYTORCH_PATH_BEGINS, find
from trtllm_kit.console import Talk
from trtllm_kit.errors import SpecError
from trtllm_kit.files import disk_errors, link_or_copy, write_text_atomic

LAYOUT: Layout = "hf"
MODEL_YAML = "model.yaml"

_DEFAULT_TOKENS_PER_BLOCK = 32


def check(plan: BuildPlan) -> None:
    """SpecError for what Triton's llmapi model does not serve. Nothing here needs a GPU."""
    problems = _problems(plan)
    if problems:
        raise SpecError(
            "the pytorch runtime cannot serve this plan: " + "; ".join(problems),
            expected=f"TensorRT-LLM {PYTORCH_PATH_BEGINS} or newer, a paged KV cache, no draft model, no logits",
            fix=f"set trtllm_version to {DEFAULT}, remove the keys named above, or set runtime to tensorrt",
        )


def inputs(plan: BuildPlan) -> dict[str, Any]:
    """The checkpoint aside, the folder depends on `model.yaml` alone, and serving it on what is pinned."""
    return {"trtllm_version": plan.trtllm_version, "llm_args": llm_args(plan), **plan.pins.known()}


def versions(plan: BuildPlan) -> dict[str, str]:
    """What the checkpoint is to be served with; nothing in it is tied to the version."""
    release = find(plan.trtllm_version)
    image = {"triton_image": release.triton_image} if release.triton_image else {}
    return {"tensorrt_llm": release.trtllm, **image, **plan.pins.known()}


def facts(compiled: Path) -> dict[str, Any]:
    """Nothing that the plan does not say."""
    return {}


def compile(quantized: Path, plan: BuildPlan, out: Path, talk: Talk) -> None:  # noqa: A001 (the Protocol's name)
    """Fill `out` with the checkpoint's files, linked where the disk can, and `model.yaml`."""
    files = [path for path in sorted(quantized.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    with disk_errors(out):
        for done, path in enumerate(files, start=1):
            link_or_copy(path, out / path.relative_to(quantized))
            talk.progress(done, len(files), "checkpoint files")
    text = f"# LlmArgs for TensorRT-LLM {plan.trtllm_version}\n" + yaml.safe_dump(llm_args(plan), sort_keys=False)
    write_text_atomic(out / MODEL_YAML, text)


def llm_args(plan: BuildPlan) -> dict[str, Any]:
    """Keyword arguments of `tensorrt_llm.LLM`, all but `model` and `tokenizer`, which depend on where the files lie.

    Also the content of `model.yaml` (`trtllm-serve DIR --config model.yaml`); Triton's copy adds `triton_config`.
    """
    flags = plan.build
    args: dict[str, Any] = {
        "backend": "pytorch",
        "tensor_parallel_size": plan.tp_size,
        "pipeline_parallel_size": plan.pp_size,
        "max_batch_size": flags.max_batch_size,
        "max_seq_len": flags.max_seq_len,
        "max_num_tokens": flags.max_num_tokens,
        "enable_chunked_prefill": plan.serving.enable_chunked_context,
        "kv_cache_config": _kv_cache_config(plan),
        "scheduler_config": {"capacity_scheduler_policy": plan.serving.batch_scheduler_policy.upper()},
        "cuda_graph_config": {"max_batch_size": flags.max_batch_size, "enable_padding": True},
    }
    args |= {"trust_remote_code": True} if plan.trust_remote_code else {}
    return args | ({"max_beam_width": flags.max_beam_width} if flags.max_beam_width != 1 else {})


def _kv_cache_config(plan: BuildPlan) -> dict[str, Any]:
    kv_cache, block = plan.kv_cache, plan.build.tokens_per_block
    config: dict[str, Any] = {
        "enable_block_reuse": kv_cache.enable_block_reuse,
        "free_gpu_memory_fraction": kv_cache.free_gpu_memory_fraction,
    }
    config |= {"max_tokens": kv_cache.max_tokens} if kv_cache.max_tokens is not None else {}
    config |= {"dtype": kv_cache.dtype} if kv_cache.dtype != "auto" else {}
    return config | ({"tokens_per_block": block} if block != _DEFAULT_TOKENS_PER_BLOCK else {})


def _problems(plan: BuildPlan) -> list[str]:
    flags = plan.build
    table = {
        f"TensorRT-LLM {plan.trtllm_version} has no PyTorch backend for Triton": not find(
            plan.trtllm_version
        ).has_pytorch_path,
        f"build.kv_cache_type {flags.kv_cache_type}": flags.kv_cache_type != "paged",
        f"build.speculative_decoding_mode {flags.speculative_decoding_mode}": flags.speculative_decoding_mode
        is not None,
        "build.gather_context_logits": flags.gather_context_logits,
        "build.gather_generation_logits": flags.gather_generation_logits,
    }
    return [text for text, broken in table.items() if broken]
