"""Which configurations could serve a load: every one that is possible and fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from profiles import precisions, support, versions
from profiles import skus as sku_table
from profiles.ledger import Limits, Placement, largest_batch, ledger
from profiles.model_shape import ModelShape
from profiles.performance import Operating, Setup
from profiles.skus import Sku
from profiles.support import Runtime
from profiles.weights import Weights

_ON_REQUEST = ("fp16", "fp8_pc_pt", "fp8_block", "int4_wo", "mixed")
"""Weighed only where asked for by name: twins of bf16, fp8 and int4_awq in size and speed, and mixed, whose size each
build decides for itself."""
_FP8_KV = ("fp8", "fp8_pc_pt", "fp8_block", "w4a8_awq", "nvfp4")  # their published figures have an FP8 KV cache
_LARGEST_BATCH = 2048
_SIZES = (1, 2, 4, 8)  # of TP and of PP
_RUNTIMES: tuple[Runtime, ...] = ("tensorrt", "pytorch")


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is to be served: tokens of a prompt and of an answer, and the limits that each user shall see."""

    isl: int
    osl: int
    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def excess(self, seen: Operating) -> float:
        """How far an operating point is from the limits: 1 meets them exactly, 2 is twice as slow as allowed."""
        ratios = [0.0]
        if self.ttft_ms is not None:
            ratios.append(seen.ttft_ms.value / self.ttft_ms)
        if self.tpot_ms is not None:
            ratios.append(seen.tpot_ms.value / self.tpot_ms)
        return max(ratios)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may be chosen from."""

    shape: ModelShape
    weights: Weights | None = None
    skus: Sequence[Sku]
    precisions: Sequence[str] = ()  # empty: all but those that are weighed on request only
    kv_dtype: str | None = None  # None: fp8 with FP8 math, else the model's own
    max_gpus: int = 8
    trtllm_version: str = versions.DEFAULT


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One that can be built and fits."""

    sku: Sku
    precision: str
    kv_dtype: str
    runtime: str
    tp_size: int
    pp_size: int
    max_batch_size: int
    max_num_tokens: int
    setup: Setup

    @property
    def gpus(self) -> float:
        """Whole GPUs that it takes; a MIG slice is its share of one."""
        return float(self.tp_size * self.pp_size * self.sku.whole_share)

    def __str__(self) -> str:
        return f"{self.sku.id} {self.precision} tp{self.tp_size}pp{self.pp_size}"


def every_sku() -> list[Sku]:
    """All GPUs that TensorRT-LLM supports, then their MIG slices that are less than the whole."""
    whole = [sku for sku in sku_table.skus().values() if sku.trtllm_supported]
    parts = [sku for sku in sku_table.slices().values() if sku.trtllm_supported and sku.whole_share < 1]
    return whole + parts


def usual_kv_dtype(precision: str) -> str:
    """The KV cache that goes with a precision unless one is asked for."""
    return "fp8" if precision in _FP8_KV else "auto"


def configurations(space: Space, demand: Demand) -> Iterator[Configuration]:
    """Every one that is possible and fits at least one sequence of the demand."""
    for place, precision, kv_dtype in placements(space, demand):
        found = configure(place, precision, kv_dtype, space.trtllm_version)
        if found is not None:
            yield found


def configure(place: Placement, precision: str, kv_dtype: str, trtllm_version: str) -> Configuration | None:
    """A placement with the largest batch that its KV cache holds; None when not one sequence fits."""
    batch = min(_LARGEST_BATCH, largest_batch(place, place.limits.max_seq_len))
    if batch < 1:
        return None
    limits = replace(place.limits, max_batch_size=batch)
    return Configuration(
        sku=place.sku,
        precision=precision,
        kv_dtype=kv_dtype,
        runtime=limits.runtime,
        tp_size=place.tp_size,
        pp_size=place.pp_size,
        max_batch_size=batch,
        max_num_tokens=limits.max_num_tokens,
        setup=Setup(
            shape=place.shape,
            precision=precision,
            kv_bits=limits.kv_bits,
            sku=place.sku,
            tp_size=place.tp_size,
            pp_size=place.pp_size,
            trtllm_version=trtllm_version,
            max_batch_size=batch,
            max_num_tokens=limits.max_num_tokens,
            kv_memory_bytes=ledger(replace(place, limits=limits)).kv_pool_bytes,
        ),
    )


def placements(space: Space, demand: Demand) -> Iterator[tuple[Placement, str, str]]:
    """Every possible (placement, precision, KV cache dtype), whether it fits or not."""
    for sku in space.skus:
        if sku.bandwidth_gbs is None:  # nothing could be predicted
            continue
        for precision, kv_dtype, runtime in _possible(space, sku):
            for tp_size, pp_size in _spreads(space, sku):
                limits = Limits(
                    max_seq_len=demand.isl + demand.osl,
                    kv_bits=precisions.KV_BITS[kv_dtype],
                    runtime=runtime,
                )
                yield (
                    Placement(
                        shape=space.shape,
                        weight_bits=precisions.find(precision).weight_bits,
                        sku=sku,
                        tp_size=tp_size,
                        pp_size=pp_size,
                        limits=limits,
                        weights=space.weights,
                    ),
                    precision,
                    kv_dtype,
                )


def _possible(space: Space, sku: Sku) -> Iterator[tuple[str, str, Runtime]]:
    for precision in space.precisions or [name for name in precisions.precisions() if name not in _ON_REQUEST]:
        kv_dtype = space.kv_dtype or usual_kv_dtype(precision)
        for runtime in _RUNTIMES:
            if support.is_possible(runtime, precision, kv_dtype, sku, space.trtllm_version):
                yield precision, kv_dtype, runtime
                break


def _spreads(space: Space, sku: Sku) -> Iterator[tuple[int, int]]:
    """(TP, PP) within the GPUs. Slices stay alone; pipelines go where NVLink does not: between PCIe cards and nodes."""
    if sku.mig_profile:
        yield 1, 1
        return
    for tp_size in _SIZES:
        if space.shape.num_attention_heads % tp_size:
            continue
        for pp_size in _SIZES:
            useful = pp_size == 1 or not sku.nvlink_gbs or tp_size == max(_SIZES)
            if useful and pp_size <= space.shape.num_hidden_layers and tp_size * pp_size <= space.max_gpus:
                yield tp_size, pp_size
