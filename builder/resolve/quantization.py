"""How it is quantized, on which text scales are measured, and how much may be lost."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from builder.checkpoint import Checkpoint
from builder.evaluate.limits import check_limits
from builder.evaluate.settings import EvaluationSettings
from builder.families import Family, family_of
from builder.plan import CalibrationPlan, EvaluationPlan
from builder.prequantized import check_as_it_is
from builder.quantize.calibration import compute_dtype
from builder.quantize.formats import FORMATS
from builder.quantize.passthrough import recipe_of
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import MIXED, SCHEMES, Scheme, find_scheme
from builder.resolve.choices import Choices
from builder.store import default_root
from profiles import detect, precisions, support
from profiles.skus import Sku
from trtllm_kit.errors import SpecError
from trtllm_kit.spec import QuantizationSpec, Runtime, Spec

SAMPLES, SAMPLE_LEN = 128, 512
_SCALED_KV = ("fp8", "int8", "nvfp4")


def check_layers(spec: Spec, checkpoint: Checkpoint, precision: str) -> tuple[Scheme, ...]:
    """The schemes of a precision; SpecError where `quantization.layers` and `precision` do not go together."""
    if checkpoint.quantized is not None:
        return tuple(find_scheme(name) for name in dict.fromkeys(checkpoint.quantized.layers.values()) or (precision,))
    layers = spec.quantization.layers
    if bool(layers) != (precision == MIXED):
        raise SpecError(
            f"precision {precision} with {len(layers)} entries in quantization.layers",
            expected="`precision: mixed` together with a table from patterns of layer names to precisions",
            fix="set precision to mixed, or remove quantization.layers"
            if layers
            else 'fill in quantization.layers, e.g. {"*.mlp.*": int4_awq, "*": fp8}',
        )
    names = dict.fromkeys(layers.values()) if precision == MIXED else (precision,)
    return tuple(find_scheme(name) for name in names)


def check_support(
    runtime: Runtime,
    family: Family,
    precision: str,
    schemes: tuple[Scheme, ...],
    kv_dtype: str,
    sku: Sku,
    version: str,
) -> None:
    """SpecError where the runtime cannot load the precision, or one of its layers', on this SKU or of this family."""
    for name in dict.fromkeys((precision, *(scheme.name for scheme in schemes))):
        support.check(runtime, name, kv_dtype, sku, version, available=(*SCHEMES, MIXED))
        why = family.refusal(runtime, name)
        if why is not None:
            possible = [
                row
                for row in SCHEMES
                if family.refusal(runtime, row) is None and support.is_possible(runtime, row, kv_dtype, sku, version)
            ]
            raise SpecError(
                f"a {family.architecture} in {name} cannot run in the {runtime} runtime: {why}",
                expected=f"one of {', '.join(possible)} there" if possible else "another runtime",
                fix="choose another precision or runtime",
            )


def choose_recipe(
    spec: Spec,
    checkpoint: Checkpoint,
    runtime: Runtime,
    precision: str,
    schemes: tuple[Scheme, ...],
    choices: Choices,
) -> Recipe:
    """The recipe with the knobs that its schemes read; the others stay at their defaults and out of the fingerprint."""
    if checkpoint.quantized is not None:
        check_as_it_is(checkpoint.quantized, precision, runtime)
        return recipe_of(checkpoint, checkpoint.quantized)
    written, default = spec.quantization, QuantizationSpec()
    algorithms = {scheme.algorithm for scheme in schemes}
    _check_patterns(written, family_of(checkpoint.config.architecture), checkpoint)
    kv_cache = spec.kv_cache.dtype
    return Recipe(
        precision=precision,
        layers=dict(written.layers),
        exclude=tuple(written.exclude),
        auto_exclude=written.auto_exclude,
        auto_exclude_budget=written.auto_exclude_budget if written.auto_exclude else default.auto_exclude_budget,
        group_size=_group_size(written, schemes, choices),
        kv_cache=kv_cache if runtime != "cpu" and kv_cache in _SCALED_KV else "none",
        smoothquant_alpha=written.smoothquant_alpha if "smoothquant" in algorithms else default.smoothquant_alpha,
        awq_clip=written.awq_clip if "awq" in algorithms else default.awq_clip,
        quantized_predecessors=written.quantized_predecessors,
    )


def choose_calibration(spec: Spec, checkpoint: Checkpoint, recipe: Recipe, choices: Choices) -> CalibrationPlan | None:
    """What is run through the model, or None where no scale depends on it."""
    if not recipe.needs_calibration or checkpoint.quantized is not None:
        return None
    written = spec.calibration
    gpu = any(found.sku is not None for found in detect.detect().gpus) if written.device == "auto" else False
    device = choices.take(
        "calibration.device",
        written.device,
        "cuda" if gpu else "cpu",
        "NVML lists a GPU here" if gpu else "no GPU is here",
    )
    positions = checkpoint.config.max_position_embeddings
    if written.max_seq_len != "auto" and written.max_seq_len > positions:
        raise SpecError(
            f"calibration.max_seq_len {written.max_seq_len} is more than the model's {positions} positions",
            expected=f"at most {positions}",
            fix="leave it out, or lower it",
        )
    if written.data.endswith(".jsonl"):
        _check_file("calibration.data", written.data)
    return CalibrationPlan(
        data=written.data,
        samples=choices.take("calibration.samples", written.samples, SAMPLES, "scales settle well before that"),
        max_seq_len=choices.take(
            "calibration.max_seq_len", written.max_seq_len, min(SAMPLE_LEN, positions), "what ModelOpt's recipes use"
        ),
        seed=written.seed,
        device=device,
        dtype=choices.take(
            "calibration.dtype",
            written.dtype,
            compute_dtype.choose(device, default_root() / "compute_dtype.json") if written.dtype == "auto" else "",
            "the faster one here; float32 unless bfloat16 is faster by half",
        ),
    )


def choose_evaluation(spec: Spec, checkpoint: Checkpoint, recipe: Recipe, choices: Choices) -> EvaluationPlan:
    """Whether the gate is passed, on what, and by which limits. UsageError for a limit that does not exist."""
    written = spec.evaluation
    lossy = any(FORMATS[facts.format].bits < 16 for scheme in recipe.schemes() for facts in scheme.layouts.values())
    check_limits(written.limits)
    for name in written.data:
        _check_file("evaluation.data", name)
    if checkpoint.quantized is not None:
        if written.enabled is True:
            raise SpecError(
                "the checkpoint is quantized already, so there is nothing to compare it with",
                expected="evaluation.enabled auto or false",
                fix="compare it by hand: trtllm-kit evaluate CHECKPOINT --against THE_ORIGINAL",
            )
        lossy, why = False, "the checkpoint came quantized: its original is not here to compare with"
    else:
        why = "quantization loses quality, and the gate says how much" if lossy else "16 bits lose nothing worth a gate"
    return EvaluationPlan(
        enabled=choices.take("evaluation.enabled", written.enabled, lossy, why),
        data=tuple(written.data),
        limits=dict(written.limits),
        max_tokens=choices.take(
            "evaluation.max_tokens", written.max_tokens, EvaluationSettings().max_tokens, "narrow intervals in minutes"
        ),
    )


def _check_file(key: str, name: str) -> None:
    if not Path(name).is_file():
        raise SpecError(
            f"{key} names {name}, and there is no such file",
            expected="a JSONL file",
            fix="correct the path; a relative one is taken from the current folder",
        )


def weight_bits(recipe: Recipe, checkpoint: Checkpoint) -> float:
    """Bits for each weight of the linears on average, excluded layers and scales included: what the ledger counts."""
    family, config = family_of(checkpoint.config.architecture), checkpoint.config
    shapes = family.shapes(config)
    total = bits = 0.0
    for layer in range(config.num_hidden_layers):
        for module in (module for group in family.groups(config, layer) for module in group.modules):
            rows, columns = shapes[f"{module}.weight"]
            scheme = recipe.scheme_of(module)
            total += rows * columns
            bits += rows * columns * (16.0 if scheme is None else precisions.find(scheme.name).weight_bits)
    return bits / total


def _group_size(written: QuantizationSpec, schemes: tuple[Scheme, ...], choices: Choices) -> int | None:
    sizes = sorted({size for scheme in schemes for size in scheme.group_sizes if len(scheme.group_sizes) > 1})
    if written.group_size == "auto":
        size = next((scheme.group_sizes[0] for scheme in schemes if len(scheme.group_sizes) > 1), None)
        return size and choices.take("quantization.group_size", "auto", size, "what upstream's recipes use")
    if written.group_size not in sizes:
        raise SpecError(
            f"quantization.group_size {written.group_size} does not exist for {', '.join(row.name for row in schemes)}",
            expected="one of " + ", ".join(map(str, sizes)) if sizes else "no group size for this precision",
            fix="leave it out, or set it to one of these",
        )
    return written.group_size


def _check_patterns(written: QuantizationSpec, family: Family, checkpoint: Checkpoint) -> None:
    """A pattern that no linear matches is a slip of the pen, and a silent one."""
    modules = [name.removesuffix(".weight") for name in sorted(family.linear_names(checkpoint.config))]
    for pattern in (*written.exclude, *written.layers):
        if not any(fnmatchcase(module, pattern) for module in modules):
            raise SpecError(
                f"the pattern '{pattern}' matches no linear of this model",
                expected=f"a pattern of names such as {modules[0]}",
                fix="correct it; * stands for anything, dots included",
            )
