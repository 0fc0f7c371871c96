"""`trtllm-kit.yaml` as written by the user: strict, typed, every `auto` still open.

Keys carry upstream's own snake_case names, so that TensorRT-LLM's documentation applies to them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError

from trtllm_kit.errors import SpecError
from trtllm_kit.strict import Strict, YamlFile, group, problems

SPEC_NAME = "trtllm-kit.yaml"
_FILE = YamlFile(what="spec", name=SPEC_NAME, docs="docs/spec.md", least="model", write="trtllm-kit init --model MODEL")

Auto = Literal["auto"]
Switch = Literal["enable", "disable"]
Runtime = Literal["tensorrt", "pytorch", "cpu"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
Plugin = Literal["auto", "float16", "float32", "bfloat16", "int32", "disable"]
Count = Annotated[int, Field(gt=0)]
CountOrZero = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class TargetSpec(Strict):
    """What the build is for."""

    sku: str = "auto"
    tp_size: Count | Auto = "auto"
    pp_size: Count | Auto = "auto"


class KvCacheSpec(Strict):
    """How keys and values are stored between steps."""

    dtype: str = "auto"
    free_gpu_memory_fraction: Share | Auto = "auto"
    enable_block_reuse: bool | Auto = "auto"
    max_tokens: Count | Auto | None = "auto"


class QuantizationSpec(Strict):
    """Which linears are quantized how. What a precision does not read must stay at its default."""

    layers: dict[str, str] = Field(default_factory=dict)
    exclude: list[str] = Field(default_factory=list)
    auto_exclude: CountOrZero = 0
    auto_exclude_budget: Share = 0.05
    group_size: Count | Auto = "auto"
    smoothquant_alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    awq_clip: bool = True
    quantized_predecessors: bool = False


class PinsSpec(Strict):
    """What a build stands on beyond its versions. `nightly` asks for both; a build by hand leaves them open."""

    image_digest: str | None = None
    driver_branch: str | None = None


class CalibrationSpec(Strict):
    """The text that scales are measured on, and how it is computed."""

    data: str = "default"
    samples: Count | Auto = "auto"
    max_seq_len: Count | Auto = "auto"
    seed: int = 0
    device: Literal["cpu", "cuda"] | Auto = "auto"
    dtype: Literal["float32", "bfloat16"] | Auto = "auto"


class EvaluationSpec(Strict):
    """The quality gate: held-out text, and how much may be lost on it."""

    enabled: bool | Auto = "auto"
    data: list[str] = Field(default_factory=list)
    limits: dict[str, float] = Field(default_factory=dict)
    max_tokens: Count | Auto = "auto"


class BuildSpec(Strict):
    """Flags of `trtllm-build`, by their own names; the other runtimes read the limits among them."""

    max_batch_size: Count | Auto = "auto"
    max_input_len: Count | Auto = "auto"
    max_seq_len: Count | Auto = "auto"
    max_num_tokens: Count | Auto = "auto"
    opt_num_tokens: Count | Auto | None = "auto"
    max_beam_width: Count = 1
    tokens_per_block: Count = 32
    kv_cache_type: Literal["paged", "continuous", "disabled"] = "paged"
    remove_input_padding: Switch = "enable"
    context_fmha: Switch = "enable"
    use_paged_context_fmha: Switch = "enable"
    use_fp8_context_fmha: Switch | Auto = "auto"
    gpt_attention_plugin: Plugin = "auto"
    gemm_plugin: Literal["auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4", "disable"] | None = None
    gemm_swiglu_plugin: Literal["fp8", "disable"] = "disable"
    low_latency_gemm_plugin: Literal["fp8", "disable"] = "disable"
    low_latency_gemm_swiglu_plugin: Literal["fp8", "disable"] = "disable"
    fp8_rowwise_gemm_plugin: Plugin = "disable"
    bert_context_fmha_fp32_acc: Switch = "disable"
    nccl_plugin: Plugin = "auto"
    lora_plugin: Plugin = "disable"
    reduce_fusion: Switch = "disable"
    user_buffer: Switch = "disable"
    norm_quant_fusion: Switch = "disable"
    use_fused_mlp: Switch | Auto = "auto"
    multiple_profiles: Switch | Auto = "auto"
    streamingllm: Switch = "disable"
    pp_reduce_scatter: Switch = "disable"
    gather_context_logits: bool = False
    gather_generation_logits: bool = False
    logits_dtype: Literal["float16", "float32"] = "float32"
    speculative_decoding_mode: (
        Literal["draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens", "eagle"] | None
    ) = None
    max_draft_len: CountOrZero = 0
    workers: Count | Auto = "auto"


class ServingSpec(Strict):
    """What the Triton model repository is rendered with."""

    concurrency: Count | Auto = "auto"
    decoupled_mode: bool = True
    triton_max_batch_size: Count | Auto = "auto"
    preprocessing_instance_count: Count | Auto = "auto"
    postprocessing_instance_count: Count | Auto = "auto"
    bls_instance_count: Count | Auto = "auto"
    max_queue_size: CountOrZero | Auto = "auto"
    max_queue_delay_microseconds: CountOrZero = 0
    batch_scheduler_policy: Literal["max_utilization", "guaranteed_no_evict"] = "guaranteed_no_evict"
    enable_chunked_context: bool | Auto = "auto"
    exclude_input_in_output: bool = True
    add_special_tokens: bool = True
    skip_special_tokens: bool = True
    accumulate_tokens: bool = True
    cpu_threads: CountOrZero | Auto = "auto"
    root: str = ""


class ValidationSpec(Strict):
    """The load that `validate` sends and what it must reach."""

    concurrencies: Annotated[list[Count], Field(min_length=1)] = Field(default_factory=lambda: [1, 4, 8])
    requests_per_level: Count | Auto = "auto"
    input_len: Count | Auto = "auto"
    output_len: Count | Auto = "auto"
    ttft_p95_ms: Annotated[float, Field(gt=0)] | None = None
    tpot_p95_ms: Annotated[float, Field(gt=0)] | None = None
    min_output_tokens_per_s: Annotated[float, Field(gt=0)] | None = None


class Spec(Strict):
    """A whole `trtllm-kit.yaml`."""

    model: str
    name: str | None = None
    trust_remote_code: bool = False
    precision: str = "auto"
    runtime: Runtime | Auto = "auto"
    trtllm_version: str = "auto"
    target: TargetSpec = TargetSpec()
    pins: PinsSpec = PinsSpec()
    kv_cache: KvCacheSpec = KvCacheSpec()
    quantization: QuantizationSpec = QuantizationSpec()
    calibration: CalibrationSpec = CalibrationSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    build: BuildSpec = BuildSpec()
    serving: ServingSpec = ServingSpec()
    validation: ValidationSpec = ValidationSpec()


def load(path: Path, overrides: dict[str, Any] | None = None) -> Spec:
    """Read a spec file and apply dotted overrides (`{"target.sku": "l40s"}`).

    Relative files and folders are taken from where the spec lies, so that a build means the same from any directory.
    Raises SpecError naming the file and the key.
    """
    return parse(read_tree(path), overrides, origin=str(path))


def read_tree(path: Path) -> dict[str, Any]:
    """The keys of a spec file, not checked yet; what they name beside the file is made absolute if `path` is."""
    _, tree = _FILE.read(path)
    anchor(tree, path.parent)
    return tree


def parse(tree: dict[str, Any], overrides: dict[str, Any] | None = None, *, origin: str = "the spec") -> Spec:
    """Check a tree of plain values; SpecError lists every wrong key at once, each with the nearest right one."""
    # A group whose keys are all commented out reads as null in YAML and means the group's defaults.
    tree = {key: {} if value is None and group(key, Spec) else value for key, value in tree.items()}
    for dotted, value in (overrides or {}).items():
        put(tree, dotted, value)
    try:
        return Spec.model_validate(tree)
    except ValidationError as error:
        raise SpecError(
            f"{origin}: " + "\n  ".join(problems(error, Spec)),
            expected="the keys and types of docs/spec.md",
            fix="correct the lines above",
        ) from None


def override(text: str) -> tuple[str, Any]:
    """`a.b=c` from `--set`, the value read as YAML."""
    dotted, separator, value = text.partition("=")
    if not separator or not dotted:
        raise SpecError(
            f"--set {text} has no value", expected="--set key.sub=value, e.g. --set build.max_batch_size=32"
        )
    try:
        return dotted.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SpecError(f"--set {text}: the value is not YAML: {error}") from None


def anchor(tree: dict[str, Any], folder: Path) -> None:
    """Take what names something beside the spec from `folder`; an id on the hub, or what is not there, stays."""

    def found(name: Any) -> Any:
        beside = isinstance(name, str) and not Path(name).is_absolute() and (folder / name).exists()
        return str(folder / name) if beside else name

    if "model" in tree:
        tree["model"] = found(tree["model"])
    for name in ("calibration", "evaluation"):
        keys = tree.get(name)
        if isinstance(keys, dict) and keys.get("data"):
            data = keys["data"]
            keys["data"] = [found(name) for name in data] if isinstance(data, list) else found(data)


def put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one key of a tree; SpecError when a part of its path is a value."""
    *parents, last = dotted.split(".")
    for key in parents:
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            raise SpecError(f"'{dotted}' cannot be set: '{key}' is a value, not a group of keys")
        tree = child
    tree[last] = value
