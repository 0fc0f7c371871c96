"""Plans for GPU runtimes, checkpoints that NVIDIA ModelOpt wrote, and the stand-in for `trtllm-build`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.checkpoint import Checkpoint
from builder.model_config import ModelConfig
from builder.plan import BuildFlags, BuildPlan, KvCache, ServingPlan, ValidationPlan
from profiles import skus
from trtllm_kit.identifier import BuildIdentifier

ROOT = Path(__file__).resolve().parents[4]
GOLDEN = ROOT / "tests" / "golden" / "modelopt"
STANDIN = ROOT / "tests" / "standins" / "trtllm-build"

FLAGS = BuildFlags(
    max_batch_size=16,
    max_input_len=128,
    max_seq_len=256,
    max_num_tokens=1024,
    opt_num_tokens=None,
    max_beam_width=1,
    tokens_per_block=32,
    kv_cache_type="paged",
    remove_input_padding="enable",
    context_fmha="enable",
    use_paged_context_fmha="enable",
    use_fp8_context_fmha="disable",
    gpt_attention_plugin="auto",
    gemm_plugin="auto",
    gemm_swiglu_plugin="disable",
    low_latency_gemm_plugin="disable",
    low_latency_gemm_swiglu_plugin="disable",
    fp8_rowwise_gemm_plugin="disable",
    bert_context_fmha_fp32_acc="disable",
    nccl_plugin="auto",
    lora_plugin="disable",
    reduce_fusion="disable",
    user_buffer="disable",
    norm_quant_fusion="disable",
    use_fused_mlp="enable",
    multiple_profiles="disable",
    streamingllm="disable",
    pp_reduce_scatter="disable",
    gather_context_logits=False,
    gather_generation_logits=False,
    logits_dtype="float32",
    speculative_decoding_mode=None,
    max_draft_len=0,
    workers=1,
)

SERVING = ServingPlan(
    concurrency=16,
    decoupled_mode=True,
    triton_max_batch_size=16,
    preprocessing_instance_count=1,
    postprocessing_instance_count=1,
    bls_instance_count=16,
    max_queue_size=0,
    max_queue_delay_microseconds=0,
    batch_scheduler_policy="guaranteed_no_evict",
    enable_chunked_context=True,
    exclude_input_in_output=True,
    add_special_tokens=True,
    skip_special_tokens=True,
    accumulate_tokens=True,
    cpu_threads=0,
    root="",
)


@pytest.fixture
def flags() -> BuildFlags:
    """Flags that every rule accepts as they are."""
    return FLAGS


@pytest.fixture
def model_config() -> ModelConfig:
    """The model of the golden checkpoints."""
    raw = json.loads((GOLDEN / "source" / "config.json").read_text())
    return ModelConfig.from_hf(raw, attention_bias=False, attention_output_bias=False, qk_norm=False)


@pytest.fixture
def make_plan(model_config: ModelConfig) -> Callable[..., BuildPlan]:
    """`make_plan(precision=..., tp_size=..., build={...}, ...)`: a plan for an H100 unless told otherwise."""

    def make(*, build: dict[str, Any] | None = None, sku: str = "h100_sxm", **changes: Any) -> BuildPlan:
        plan = BuildPlan(
            identifier=BuildIdentifier(model="golden", precision="bf16", sku=sku, tp=1, pp=1, runtime="tensorrt"),
            checkpoint=Checkpoint(
                source="golden", path=GOLDEN / "source", config=model_config, tensors={}, files={}, digest="0" * 64
            ),
            precision="bf16",
            sku=skus.find(sku),
            tp_size=1,
            pp_size=1,
            runtime="tensorrt",
            trtllm_version="1.2.1",
            kv_cache=KvCache(dtype="auto", free_gpu_memory_fraction=0.9, enable_block_reuse=True, max_tokens=None),
            build=replace(FLAGS, **(build or {})),
            serving=SERVING,
            validation=ValidationPlan(
                concurrencies=(1,),
                requests_per_level=1,
                input_len=8,
                output_len=8,
                ttft_p95_ms=None,
                tpot_p95_ms=None,
                min_output_tokens_per_s=None,
            ),
        )
        return replace(plan, **changes)

    return make


@pytest.fixture
def golden() -> Path:
    """Folder of the checkpoints that ModelOpt wrote."""
    return GOLDEN


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`standin(fail="gpu_oom", version="1.2.1", sm=90)`: builds run the stand-in, told how to behave."""

    def use(*, fail: str = "", version: str = "1.2.1", sm: int = 90) -> None:
        monkeypatch.setenv("TRTLLM_BUILD_COMMAND", shlex.join([sys.executable, str(STANDIN)]))
        monkeypatch.setenv("STANDIN_FAIL", fail)
        monkeypatch.setenv("STANDIN_VERSION", version)
        monkeypatch.setenv("STANDIN_SM", str(sm))

    return use
