"""What runs where: (runtime, precision, KV cache dtype) against the GPU's architecture and the TensorRT-LLM version.

The table has a row for every precision in every runtime, so that an impossible cell is refused with its own reason and
with the nearest cell that is possible.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from profiles import precisions, versions
from profiles.skus import Sku, skus
from profiles.tables import rows, words
from trtllm_kit.errors import SpecError

Runtime = Literal["tensorrt", "pytorch", "cpu"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
_RUNTIME: Mapping[str, Runtime] = {name: name for name in RUNTIMES}

_VERSIONS = {
    "tensorrt": (
        versions.has_engine_path,
        f"engines can only be built with TensorRT-LLM before {versions.ENGINE_PATH_ENDS}",
    ),
    "pytorch": (
        versions.has_pytorch_path,
        f"the PyTorch backend is served from TensorRT-LLM {versions.PYTORCH_PATH_BEGINS} on",
    ),
}

_NEXT_BEST: Mapping[str, tuple[str, ...]] = {
    "fp16": ("bf16",),
    "bf16": ("fp16",),
    "int8_wo": ("fp8", "int8_sq", "bf16"),
    "int8_sq": ("fp8", "int8_wo", "bf16"),
    "fp8": ("fp8_pc_pt", "int8_sq", "int8_wo", "bf16"),
    "fp8_pc_pt": ("fp8", "fp8_block", "int8_sq", "bf16"),
    "fp8_block": ("fp8_pc_pt", "fp8", "int8_sq", "bf16"),
    "int4_wo": ("int4_awq", "nvfp4", "fp8", "bf16"),
    "int4_awq": ("int4_wo", "nvfp4", "w4a8_awq", "fp8", "bf16"),
    "w4a8_awq": ("int4_awq", "nvfp4", "fp8", "bf16"),
    "nvfp4": ("w4a8_awq", "int4_awq", "fp8", "bf16"),
    "mixed": ("fp8", "int8_wo", "bf16"),
}
"""What comes closest to a precision in size and speed, best first."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: on which compute capabilities one thing runs in one runtime, and why not elsewhere."""

    anywhere: bool
    sms: tuple[tuple[int, int], ...]  # closed ranges of compute capability
    why_not: str
    source: str
    date: str

    def runs_on(self, sku: Sku) -> bool:
        """Whether this row allows the SKU."""
        return self.anywhere or (sku.sm is not None and any(low <= sku.sm <= high for low, high in self.sms))


def check(
    runtime: Runtime,
    precision: str,
    kv_dtype: str,
    sku: Sku,
    trtllm_version: str,
    available: Collection[str] | None = None,
) -> None:
    """Refuse an impossible combination; SpecError says why, and what would be nearest.

    `available` are the precisions that can be built and so may be offered; all of them by default.
    """
    precisions.find(precision)
    precisions.kv_quant_algo(kv_dtype)
    if not is_possible(runtime, precision, kv_dtype, sku, trtllm_version):
        raise _impossible(runtime, precision, kv_dtype, sku, trtllm_version, available)


def is_possible(runtime: Runtime, precision: str, kv_dtype: str, sku: Sku, trtllm_version: str) -> bool:
    """Whether `check` would let it pass."""
    return next(_refusals(runtime, precision, kv_dtype, sku, trtllm_version), None) is None


def choose_runtime(
    sku: Sku,
    precision: str,
    trtllm_version: str,
    kv_dtype: str = "auto",
    available: Collection[str] | None = None,
) -> tuple[Runtime, str]:
    """The runtime for `runtime: auto`, with the reason; SpecError when none can run it."""
    if sku.is_cpu:
        return "cpu", "the cpu SKU has no GPU for TensorRT-LLM"
    if is_possible("tensorrt", precision, kv_dtype, sku, trtllm_version):
        return "tensorrt", f"TensorRT-LLM {trtllm_version} builds engines, and {precision} runs in one on {sku.id}"
    if is_possible("pytorch", precision, kv_dtype, sku, trtllm_version):
        why = next(_refusals("tensorrt", precision, kv_dtype, sku, trtllm_version))
        return "pytorch", f"no engine is possible: {why}"
    last: Runtime = "tensorrt" if versions.has_engine_path(trtllm_version) else "pytorch"
    raise _impossible(last, precision, kv_dtype, sku, trtllm_version, available)


def choose_precision(sku: Sku, checkpoint_dtype: str, available: Collection[str]) -> tuple[str, str]:
    """The precision for `precision: auto`, with the reason: the checkpoint's own 16 bits.

    A lossy precision is never chosen for the user. `checkpoint_dtype` is "bfloat16", "float16" or "float32".
    """
    own = {
        "bfloat16": ("bf16", "the checkpoint's own dtype: nothing is lost"),
        "float16": ("fp16", "the checkpoint's own dtype: nothing is lost"),
        "float32": ("bf16", "16 bits of the checkpoint's float32, with float32's range"),
    }.get(checkpoint_dtype)
    if own is None or own[0] not in available:
        raise SpecError(
            f"no precision follows from a {checkpoint_dtype} checkpoint for {sku.id}",
            expected="a checkpoint in bfloat16, float16 or float32",
            fix="set `precision:` to one of " + ", ".join(available),
        )
    return own


def _impossible(
    runtime: Runtime, precision: str, kv_dtype: str, sku: Sku, version: str, available: Collection[str] | None
) -> SpecError:
    reasons = "; ".join(_refusals(runtime, precision, kv_dtype, sku, version))
    return SpecError(
        f"{precision} with {kv_dtype} KV cache in the {runtime} runtime on {sku.id}: {reasons}",
        expected="a cell of the support table that is possible",
        fix=_nearest(runtime, precision, kv_dtype, sku, version, available),
    )


def closest_precision(
    runtime: Runtime, precision: str, kv_dtype: str, sku: Sku, trtllm_version: str, available: Collection[str]
) -> str | None:
    """`precision` itself when it is possible, else what of `available` comes closest to it; None when nothing does."""
    for candidate in (precision, *_NEXT_BEST[precision]):
        if candidate in available and is_possible(runtime, candidate, kv_dtype, sku, trtllm_version):
            return candidate
    return None


def _refusals(runtime: Runtime, precision: str, kv_dtype: str, sku: Sku, version: str) -> Iterator[str]:
    """Every reason against a cell, none when it is possible."""
    if (runtime == "cpu") != sku.is_cpu:
        yield "the cpu runtime is for the cpu SKU" if runtime == "cpu" else "TensorRT-LLM needs an NVIDIA GPU"
        return
    if runtime != "cpu" and not sku.trtllm_supported:
        yield f"TensorRT-LLM does not support {sku.arch}"
        return
    if runtime in _VERSIONS and not _VERSIONS[runtime][0](version):
        yield f"{_VERSIONS[runtime][1]}, not with {version}"
    for row in (table()[runtime, "weights", precision], table()[runtime, "kv", kv_dtype]):
        if not row.runs_on(sku):
            yield row.why_not


def _nearest(
    runtime: Runtime, precision: str, kv_dtype: str, sku: Sku, version: str, available: Collection[str] | None
) -> str:
    """The cheapest change that makes a cell possible, in words. A new GPU is dearer than a new setting."""
    options: tuple[list[tuple[float, str, str]], ...] = (
        [(0.0 if name == runtime else 1.0, "runtime", name) for name in RUNTIMES],
        [(float(name != kv_dtype), "kv_cache.dtype", name) for name in dict.fromkeys((kv_dtype, "auto"))],
        [(1.5 * (name != version), "trtllm_version", name) for name in dict.fromkeys((version, versions.DEFAULT))],
        [
            (2.0 + rank / 10 if rank else 0.0, "precision", name)
            for rank, name in enumerate((precision, *_NEXT_BEST[precision]))
            if not rank or available is None or name in available
        ],
        [(0.0 if name == sku.id else 5.0, "target.sku", name) for name in skus()],
    )
    for cell in sorted(itertools.product(*options), key=lambda cell: sum(cost for cost, _, _ in cell)):
        chosen = {key: name for _, key, name in cell}
        other = _RUNTIME[chosen["runtime"]]
        if is_possible(
            other, chosen["precision"], chosen["kv_cache.dtype"], skus()[chosen["target.sku"]], chosen["trtllm_version"]
        ):
            return "set " + ", ".join(f"{key} to {name}" for cost, key, name in cell if cost)
    return ""


@functools.cache
def table() -> Mapping[tuple[str, str, str], Row]:
    """All rows by (runtime, "weights" or "kv", name)."""
    return {(row["runtime"], row["kind"], row["name"]): _row(row) for row in rows("support")}


def _row(row: Mapping[str, str]) -> Row:
    ranges = [cell.partition("-") for cell in words(row["sms"]) if cell != "any"]
    return Row(
        anywhere=row["sms"] == "any",
        sms=tuple((int(low), int(high or low)) for low, _, high in ranges),
        why_not=row["why"],
        source=row["source"],
        date=row["date"],
    )
