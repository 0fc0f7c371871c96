"""Precisions by the kit's names: what TensorRT-LLM calls each, and what a weight costs in it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from profiles.tables import rows
from trtllm_kit.errors import SpecError

KV_DTYPES: Mapping[str, str | None] = {
    "auto": None,
    "fp8": "FP8",
    "int8": "INT8",
    "nvfp4": "NVFP4",
    "float16": None,
    "float32": None,
}
"""Paged KV cache by `kv_cache.dtype`, with upstream's `kv_cache_quant_algo`; auto is the runtime's own choice."""

KV_BITS: Mapping[str, float] = {"auto": 16, "fp8": 8, "int8": 8, "nvfp4": 4.5, "float16": 16, "float32": 32}
"""Bits for each stored element; NVFP4 has one 8-bit scale for 16 elements."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How linear layers are stored. Embeddings, norms and the head stay in 16 bits in all of them."""

    id: str
    quant_algo: str | None  # upstream's QuantAlgo; None: not quantized
    weight_bits: float  # bits for each weight of a linear layer, its scales included (group 128, NVFP4 16)
    calibrated: bool  # whether it needs calibration data
    source: str
    date: str


@functools.cache
def precisions() -> Mapping[str, Precision]:
    """All precisions by id."""
    return {row["id"]: _precision(row) for row in rows("precisions")}


def find(precision: str) -> Precision:
    """The precision of that id; SpecError lists them."""
    try:
        return precisions()[precision]
    except KeyError:
        raise SpecError(f"unknown precision '{precision}'", expected="one of " + ", ".join(precisions())) from None


def kv_quant_algo(kv_dtype: str) -> str | None:
    """Upstream's `kv_cache_quant_algo` for a `kv_cache.dtype`; SpecError lists the dtypes."""
    if kv_dtype not in KV_DTYPES:
        raise SpecError(f"unknown kv_cache.dtype '{kv_dtype}'", expected="one of " + ", ".join(KV_DTYPES))
    return KV_DTYPES[kv_dtype]


def _precision(row: Mapping[str, str]) -> Precision:
    return Precision(
        id=row["id"],
        quant_algo=row["quant_algo"] or None,
        weight_bits=float(row["weight_bits"]),
        calibrated=row["calibrated"] == "yes",
        source=row["source"],
        date=row["date"],
    )
