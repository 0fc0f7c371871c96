"""Spec → plan: every `auto` becomes a value with its reason, and every impossible combination is refused here."""

from __future__ import annotations

from builder.checkpoint import Checkpoint
from builder.compile.flag_rules import check_flags
from builder.plan import BuildPlan
from builder.quantize.schemes import SCHEMES
from builder.resolve.choices import Choices
from builder.resolve.limits import choose_build_flags, choose_kv_cache, choose_max_seq_len
from builder.resolve.serving import choose_serving, choose_validation, warnings_of
from builder.resolve.target import (
    check_kv_cache,
    choose_parallelism,
    choose_precision,
    choose_runtime,
    choose_sku,
    choose_trtllm_version,
    source_name,
)
from profiles import support
from trtllm_kit.identifier import BuildIdentifier, model_slug
from trtllm_kit.spec import Spec


def resolve(spec: Spec, checkpoint: Checkpoint) -> BuildPlan:
    """Decide everything. Raises SpecError, FitError or HostError before any work is done."""
    choices = Choices()
    sku = choose_sku(spec, choices)
    version = choose_trtllm_version(spec, choices)
    precision = choose_precision(spec, checkpoint, sku, choices)
    runtime = choose_runtime(spec, sku, precision, version, choices)
    support.check(runtime, precision, spec.kv_cache.dtype, sku, version, available=tuple(SCHEMES))
    check_kv_cache(runtime, spec.kv_cache.dtype)
    max_seq_len = choose_max_seq_len(spec, checkpoint, choices)
    tp_size, pp_size = choose_parallelism(spec, checkpoint, sku, precision, max_seq_len, choices)
    build = choose_build_flags(spec, runtime, precision, tp_size * pp_size, max_seq_len, choices)
    build, warnings = check_flags(
        build,
        runtime=runtime,
        precision=precision,
        kv_dtype=spec.kv_cache.dtype,
        sm=sku.sm,
        config=checkpoint.config,
        tp_size=tp_size,
    )
    kv_cache = choose_kv_cache(spec, checkpoint, runtime, build, choices)
    serving = choose_serving(spec, runtime, build, choices)
    return BuildPlan(
        identifier=BuildIdentifier(
            model=spec.name or model_slug(source_name(checkpoint)),
            precision=precision,
            sku=sku.id,
            tp=tp_size,
            pp=pp_size,
            runtime=runtime,
        ),
        checkpoint=checkpoint,
        precision=precision,
        sku=sku,
        tp_size=tp_size,
        pp_size=pp_size,
        runtime=runtime,
        trtllm_version=version,
        kv_cache=kv_cache,
        build=build,
        serving=serving,
        validation=choose_validation(spec, build, choices),
        trust_remote_code=spec.trust_remote_code,
        reasons=choices.reasons,
        warnings=(*warnings, *warnings_of(serving)),
    )
