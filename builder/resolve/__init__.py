"""Spec → plan: every `auto` becomes a value with its reason, and every impossible combination is refused here."""

from __future__ import annotations

from dataclasses import replace

from builder.checkpoint import Checkpoint
from builder.compile.flag_rules import check_flags
from builder.compile.table import compiler_for
from builder.families import family_of
from builder.plan import BuildPlan, Pins
from builder.quantize.checks import check as check_quantizable
from builder.quantize.layouts import Ranks
from builder.resolve.choices import Choices
from builder.resolve.limits import choose_build_flags, choose_kv_cache, choose_max_seq_len
from builder.resolve.memory import placement
from builder.resolve.quantization import (
    check_layers,
    check_support,
    choose_calibration,
    choose_evaluation,
    choose_recipe,
    weight_bits,
)
from builder.resolve.serving import choose_serving, choose_validation, warnings_of
from builder.resolve.target import (
    choose_parallelism,
    choose_precision,
    choose_runtime,
    choose_sku,
    choose_trtllm_version,
    source_name,
)
from trtllm_kit.identifier import BuildIdentifier, model_slug
from trtllm_kit.spec import Spec


def resolve(spec: Spec, checkpoint: Checkpoint) -> BuildPlan:
    """Decide everything. Raises SpecError, FitError or HostError before any work is done."""
    choices = Choices()
    sku = choose_sku(spec, choices)
    version = choose_trtllm_version(spec, choices)
    precision = choose_precision(spec, checkpoint, sku, choices)
    runtime = choose_runtime(spec, sku, precision, version, choices)
    schemes = check_layers(spec, checkpoint, precision)
    family = family_of(checkpoint.config.architecture)
    check_support(runtime, family, precision, schemes, spec.kv_cache.dtype, sku, version)
    recipe = choose_recipe(spec, checkpoint, runtime, precision, schemes, choices)
    calibration = choose_calibration(spec, checkpoint, recipe, choices)
    if calibration is not None:
        recipe = replace(recipe, calibration_dtype=calibration.dtype)
    max_seq_len = choose_max_seq_len(spec, checkpoint, choices)
    place = placement(spec, checkpoint, sku, runtime, weight_bits(recipe, checkpoint), max_seq_len)
    place = choose_parallelism(spec, place, choices)
    if checkpoint.quantized is None:
        ranks = Ranks(tp_size=place.tp_size, pp_size=place.pp_size)
        check_quantizable(checkpoint, recipe, compiler_for(runtime).LAYOUT, ranks)
    build = choose_build_flags(spec, runtime, recipe, place, choices)
    build, warnings = check_flags(
        build,
        runtime=runtime,
        precision=precision,
        kv_dtype=spec.kv_cache.dtype,
        sm=sku.sm,
        config=checkpoint.config,
        tp_size=place.tp_size,
    )
    kv_cache = choose_kv_cache(spec, checkpoint, runtime, build, choices)
    serving = choose_serving(spec, runtime, build, choices)
    return BuildPlan(
        identifier=BuildIdentifier(
            model=spec.name or model_slug(source_name(checkpoint)),
            precision=precision,
            sku=sku.id,
            tp=place.tp_size,
            pp=place.pp_size,
            runtime=runtime,
        ),
        checkpoint=checkpoint,
        precision=precision,
        recipe=recipe,
        calibration=calibration,
        evaluation=choose_evaluation(spec, checkpoint, recipe, choices),
        sku=sku,
        tp_size=place.tp_size,
        pp_size=place.pp_size,
        runtime=runtime,
        trtllm_version=version,
        kv_cache=kv_cache,
        build=build,
        serving=serving,
        validation=choose_validation(spec, build, choices),
        pins=Pins() if runtime == "cpu" else Pins(**spec.pins.model_dump()),
        trust_remote_code=spec.trust_remote_code,
        reasons=choices.reasons,
        warnings=(*warnings, *warnings_of(serving)),
    )
