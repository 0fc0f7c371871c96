"""Spec → plan: every `auto` becomes a value with its reason, and every impossible combination is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from builder.checkpoint import Checkpoint
from builder.compile.flag_rules import check_flags
from builder.plan import BuildFlags, BuildPlan, KvCache, ServingPlan, ValidationPlan
from builder.quantize.schemes import SCHEMES, find_scheme
from profiles import detect, ledger, skus, support, versions
from trtllm_kit.errors import SpecError
from trtllm_kit.identifier import BuildIdentifier, model_slug
from trtllm_kit.spec import Runtime, Spec

_T = TypeVar("_T")

_CPU_KV_BYTES = 1 << 30
_CPU_KV_BLOCK_TOKENS = 32
_DEFAULT_MAX_SEQ_LEN = 8192


class _Choices:
    """Collects the reason of each value that the user left open."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def take(self, key: str, written: Any, default: _T, reason: str) -> _T:
        """What the user wrote, else `default` because of `reason`."""
        if written is None or written == "auto":
            self.reasons[key] = reason
            return default
        return written  # type: ignore[no-any-return]


def resolve(spec: Spec, checkpoint: Checkpoint) -> BuildPlan:
    """Decide everything. Raises SpecError, FitError or HostError before any work is done."""
    choices = _Choices()
    sku = _sku(spec, choices)
    version = _trtllm_version(spec, choices)
    precision = _precision(spec, checkpoint, sku, choices)
    runtime = _runtime(spec, sku, precision, version, choices)
    support.check(runtime, precision, spec.kv_cache.dtype, sku, version)
    tp_size, pp_size = _parallelism(spec, checkpoint, sku, precision, choices)
    build = _build_flags(spec, checkpoint, runtime, precision, tp_size * pp_size, choices)
    build, warnings = check_flags(
        build,
        runtime=runtime,
        precision=precision,
        kv_dtype=spec.kv_cache.dtype,
        sm=sku.sm,
        config=checkpoint.config,
        tp_size=tp_size,
        pp_size=pp_size,
    )
    kv_cache = _kv_cache(spec, checkpoint, runtime, build, choices)
    return BuildPlan(
        identifier=BuildIdentifier(
            model=spec.name or model_slug(_source_name(checkpoint)),
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
        serving=_serving(spec, runtime, build, choices),
        validation=_validation(spec, build, choices),
        trust_remote_code=spec.trust_remote_code,
        reasons=choices.reasons,
        warnings=tuple(warnings),
    )
