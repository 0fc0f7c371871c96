"""What a build will do: the spec with every `auto` replaced by a value, and the reason for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from builder.checkpoint import Checkpoint
from builder.quantize.recipe import Recipe
from profiles.skus import Sku
from trtllm_kit.identifier import BuildIdentifier
from trtllm_kit.spec import Runtime


@dataclass(frozen=True, kw_only=True)
class BuildFlags:
    """`trtllm-build`'s flags by their own names, all decided. The `cpu` and `pytorch` runtimes read the limits."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    opt_num_tokens: int | None
    max_beam_width: int
    tokens_per_block: int
    kv_cache_type: str
    remove_input_padding: str
    context_fmha: str
    use_paged_context_fmha: str
    use_fp8_context_fmha: str
    gpt_attention_plugin: str
    gemm_plugin: str | None
    gemm_swiglu_plugin: str
    low_latency_gemm_plugin: str
    low_latency_gemm_swiglu_plugin: str
    fp8_rowwise_gemm_plugin: str
    bert_context_fmha_fp32_acc: str
    nccl_plugin: str
    lora_plugin: str
    reduce_fusion: str
    user_buffer: str
    norm_quant_fusion: str
    use_fused_mlp: str
    multiple_profiles: str
    streamingllm: str
    pp_reduce_scatter: str
    gather_context_logits: bool
    gather_generation_logits: bool
    logits_dtype: str
    speculative_decoding_mode: str | None
    max_draft_len: int
    workers: int


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """Paged KV cache settings."""

    dtype: str  # "auto": the model's own; "fp8", "int8", "nvfp4"
    free_gpu_memory_fraction: float  # of what is free once the engine is loaded
    enable_block_reuse: bool
    max_tokens: int | None  # capacity of the pool in tokens; None: by the fraction


@dataclass(frozen=True, kw_only=True)
class Pins:
    """What a build for a GPU stands on beyond its versions: the same tag may mean another image tomorrow."""

    image_digest: str | None = None  # of the Triton image: "sha256:..."
    driver_branch: str | None = None  # "580"

    def known(self) -> dict[str, str]:
        """Those that are pinned, as inputs of a stage: none of them, and the stage is as it was without pins."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """The text that scales are measured on, and where the forward pass runs."""

    data: str  # "default", a JSONL file, or a dataset on the hub
    samples: int
    max_seq_len: int  # tokens of a sample
    seed: int
    device: str  # "cpu" | "cuda"
    dtype: str  # of the forward pass: "float32" | "bfloat16"


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """The quality gate."""

    enabled: bool
    data: tuple[str, ...]  # JSONL files of the user's own, beside the bundled held-out text
    limits: Mapping[str, float]  # by metric, in place of the evaluator's own for the width of the weights
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """Values that the model repository is rendered with."""

    concurrency: int
    decoupled_mode: bool
    triton_max_batch_size: int
    preprocessing_instance_count: int
    postprocessing_instance_count: int
    bls_instance_count: int
    max_queue_size: int
    max_queue_delay_microseconds: int
    batch_scheduler_policy: str
    enable_chunked_context: bool
    exclude_input_in_output: bool
    add_special_tokens: bool
    skip_special_tokens: bool
    accumulate_tokens: bool
    cpu_threads: int  # of the cpu runtime; 0: all of the serving machine but one
    root: str  # prefix of `engine` and `tokenizer` in the rendered files; "" means relative to the artifact


@dataclass(frozen=True, kw_only=True)
class ValidationPlan:
    """The load that `validate` sends, and what it must reach (None: no limit)."""

    concurrencies: tuple[int, ...]
    requests_per_level: int
    input_len: int
    output_len: int
    ttft_p95_ms: float | None
    tpot_p95_ms: float | None
    min_output_tokens_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """Everything that the stages need, decided before any work."""

    identifier: BuildIdentifier
    checkpoint: Checkpoint
    precision: str  # a row of builder.quantize.schemes.SCHEMES, or "mixed"
    recipe: Recipe
    calibration: CalibrationPlan | None  # None: no scale depends on what passes through the model
    evaluation: EvaluationPlan
    sku: Sku
    tp_size: int
    pp_size: int
    runtime: Runtime
    trtllm_version: str  # "1.2.1"; for `cpu` the version whose contract the repository follows
    kv_cache: KvCache
    build: BuildFlags
    serving: ServingPlan
    validation: ValidationPlan
    pins: Pins = Pins()
    trust_remote_code: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)  # dotted spec key -> why this value
    warnings: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """Number of ranks, one GPU each."""
        return self.tp_size * self.pp_size

    def resolved_spec(self) -> dict[str, Any]:
        """The spec that gives this very plan again, with no `auto` left in it; written into the artifact."""
        return {
            "model": self.checkpoint.source,
            "name": self.identifier.model,
            "trust_remote_code": self.trust_remote_code,
            "precision": self.precision,
            "runtime": self.runtime,
            "trtllm_version": self.trtllm_version,
            "target": {"sku": self.sku.id, "tp_size": self.tp_size, "pp_size": self.pp_size},
            "pins": asdict(self.pins),
            "kv_cache": asdict(self.kv_cache),
            "quantization": self._quantization(),
            "calibration": self._calibration(),
            "evaluation": {**asdict(self.evaluation), "data": list(self.evaluation.data)},
            "build": asdict(self.build),
            "serving": asdict(self.serving),
            "validation": {**asdict(self.validation), "concurrencies": list(self.validation.concurrencies)},
        }

    def _quantization(self) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "layers": dict(recipe.layers),
            "exclude": list(recipe.exclude),
            "auto_exclude": recipe.auto_exclude,
            "auto_exclude_budget": recipe.auto_exclude_budget,
            "group_size": recipe.group_size or "auto",
            "smoothquant_alpha": recipe.smoothquant_alpha,
            "awq_clip": recipe.awq_clip,
            "quantized_predecessors": recipe.quantized_predecessors,
        }

    def _calibration(self) -> dict[str, Any]:
        return {} if self.calibration is None else asdict(self.calibration)
