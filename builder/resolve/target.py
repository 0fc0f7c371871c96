"""For what: SKU, TensorRT-LLM version, precision, runtime and parallelism."""

from __future__ import annotations

from dataclasses import replace

from builder.checkpoint import Checkpoint
from builder.quantize.schemes import MIXED, SCHEMES, find_scheme
from builder.resolve.choices import Choices
from profiles import detect, fit_check, installed, skus, support, versions
from profiles.ledger import Placement
from trtllm_kit.errors import SpecError
from trtllm_kit.spec import Runtime, Spec


def source_name(checkpoint: Checkpoint) -> str:
    return checkpoint.path.resolve().name if checkpoint.source.startswith((".", "/")) else checkpoint.source


def choose_sku(spec: Spec, choices: Choices) -> skus.Sku:
    if spec.target.sku != "auto":
        return skus.find(spec.target.sku)
    found = detect.detect()
    known = [(place, place.sku) for place in found.places if place.sku is not None]
    if known:
        place, sku = known[0]
        what = "MIG slice" if place.is_slice else "GPU"
        return choices.take("target.sku", "auto", sku, f"the first {what} that NVML lists here is a {sku.name}")
    why = found.reason or "NVML lists no GPU or MIG slice that is in the table of SKUs"
    return choices.take("target.sku", "auto", skus.find("cpu"), why)


def choose_trtllm_version(spec: Spec, choices: Choices) -> str:
    here = installed.trtllm_version()
    default = here or versions.DEFAULT
    reason = "the version installed here" if here else "the last line with engines, and the kit's pinned container"
    version = str(choices.take("trtllm_version", spec.trtllm_version, default, reason))
    versions.find(version)
    return version


def choose_precision(spec: Spec, checkpoint: Checkpoint, sku: skus.Sku, choices: Choices) -> str:
    if spec.precision != "auto":
        return MIXED if spec.precision == MIXED else find_scheme(spec.precision).name
    if checkpoint.quantized is not None:
        found = checkpoint.quantized
        return choices.take("precision", "auto", found.precision, f"the checkpoint's own: {found.method} made it so")
    precision, reason = support.choose_precision(sku, checkpoint.config.dtype, available=tuple(SCHEMES))
    return choices.take("precision", "auto", precision, reason)


def choose_runtime(spec: Spec, sku: skus.Sku, precision: str, version: str, choices: Choices) -> Runtime:
    if spec.runtime != "auto":
        return spec.runtime
    runtime, reason = support.choose_runtime(sku, precision, version, spec.kv_cache.dtype, available=(*SCHEMES, MIXED))
    return choices.take("runtime", "auto", runtime, reason)


def choose_parallelism(spec: Spec, place: Placement, choices: Choices) -> Placement:
    """TP and PP; FitError when weights, buffers and one full sequence do not fit."""
    pp_size = choices.take("target.pp_size", spec.target.pp_size, 1, "one stage: a pipeline adds latency")
    sku = place.sku
    if sku.memory_bytes is None:
        tp_size = choices.take("target.tp_size", spec.target.tp_size, 1, "the cpu SKU is one rank")
        if sku.id == "cpu" and tp_size * pp_size > 1:
            raise SpecError(
                f"the cpu SKU runs one rank, not tp{tp_size}pp{pp_size}",
                expected="tp_size 1 and pp_size 1",
                fix="choose a GPU SKU with --sku, or leave the sizes out",
            )
        return replace(place, tp_size=tp_size, pp_size=pp_size)
    if spec.target.tp_size != "auto":
        asked = replace(place, tp_size=spec.target.tp_size, pp_size=pp_size)
        fit_check.check_fits(asked)
        return asked
    fewest = fit_check.smallest_tp(replace(place, pp_size=pp_size))
    reason = f"the fewest {sku.name} that hold the weights, the buffers and one full sequence"
    return replace(place, tp_size=choices.take("target.tp_size", "auto", fewest, reason), pp_size=pp_size)
