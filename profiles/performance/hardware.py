"""What a SKU can do at best in a precision: rates, bandwidths and memory, with stated substitutes for unknown facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from profiles import precisions
from profiles.skus import Sku, skus
from trtllm_kit.errors import SpecError

_GB = 1e9
_RATES: Mapping[str, tuple[str, ...]] = {
    "16": ("bf16",),
    "int8": ("int8", "bf16"),
    "fp8": ("fp8", "bf16"),
    "fp4": ("fp4", "fp8", "bf16"),
}
"""Which rates a GEMM's math may use, best first; a GPU without the unit computes in the next one."""

_MATH: Mapping[str, tuple[str, str]] = {
    "bf16": ("16", "16"),
    "fp16": ("16", "16"),
    "int8_wo": ("16", "w8a16"),
    "int4_wo": ("16", "w4a16"),
    "int4_awq": ("16", "w4a16"),
    "mixed": ("16", "mixed"),
    "int8_sq": ("int8", "int8"),
    "w4a8_awq": ("fp8", "w4a8"),
    "fp8": ("fp8", "fp8"),
    "fp8_pc_pt": ("fp8", "fp8"),
    "fp8_block": ("fp8", "fp8"),
    "nvfp4": ("fp4", "fp4"),
}
"""Which rate a precision computes with, and which kernels' efficiency applies."""

MXFP4 = "mxfp4"
"""How gpt-oss is published; no precision of the kit's quantizer, so only the performance model knows it."""

_MXFP4_BITS = 4.25  # an 8-bit scale for each group of 32: OCP Microscaling Formats specification 1.0
_MEASURED = {
    "Ampere": "a100_sxm_80gb",
    "Ada": "l40s",
    "Hopper": "h100_sxm",
    "Blackwell": "b200_sxm",
    "Blackwell (GB202)": "rtx_pro_6000",
}
_LINK_GBS = {"Gen3": 16, "Gen4": 32, "Gen5": 64, "Gen6": 128}  # one direction of x16, PCI-SIG


@dataclass(frozen=True, kw_only=True)
class Device:
    """Peak figures of one GPU: FLOP/s, byte/s and bytes."""

    arch: str
    math: str  # which level of GEMM efficiency applies
    weight_bytes: float  # of each weight of a linear layer
    flops: float
    flops16: float
    bandwidth: float
    memory: float
    link: float  # one direction, between two GPUs of a node
    nvlink: bool
    power: float  # W for each TFLOP/s in 16 bits, relative to the measured part of the architecture
    assumed: tuple[str, ...]  # facts that the SKU table does not have


def device(sku: Sku, precision: str) -> Device:
    """The peaks of `sku` in `precision`; SpecError when its memory, bandwidth or rates cannot even be assumed."""
    weight_bits, rate_name, math = _weights(precision, sku)
    stand_in = _stand_in(sku)
    bandwidth = sku.bandwidth_gbs or stand_in.bandwidth_gbs
    if bandwidth is None or sku.memory_bytes is None or not stand_in.dense_tflops.get("bf16"):
        raise SpecError(
            f"no prediction for {sku.id}: its memory, bandwidth or TFLOP/s are not confirmed",
            expected="a GPU with these facts in profiles/data/skus.csv",
            fix="choose one with `trtllm-kit sku list`",
        )
    rates = sku.dense_tflops if sku.dense_tflops.get("bf16") else stand_in.dense_tflops
    scale = 1.0 if rates is sku.dense_tflops or sku.sm == stand_in.sm else bandwidth / (stand_in.bandwidth_gbs or 1.0)
    tflops = next(rate for name in _RATES[rate_name] if (rate := rates.get(name))) * scale
    tflops16 = (rates["bf16"] or 0.0) * scale
    assumed = tuple(
        f"{what} of {stand_in.id}"
        for what, missing in (("TFLOP/s", rates is not sku.dense_tflops), ("bandwidth", not sku.bandwidth_gbs))
        if missing
    )
    nvlink = bool(sku.nvlink_gbs)
    return Device(
        arch=sku.arch,
        math=math,
        weight_bytes=weight_bits / 8,
        flops=tflops * 1e12,
        flops16=tflops16 * 1e12,
        bandwidth=bandwidth * _GB,
        memory=float(sku.memory_bytes),
        link=_GB * ((sku.nvlink_gbs or 0.0) / 2 if nvlink else _LINK_GBS.get(sku.pcie.split(" ")[0], 16)),
        nvlink=nvlink,
        power=_power(sku, tflops16),
        assumed=assumed,
    )


def _weights(precision: str, sku: Sku) -> tuple[float, str, str]:
    """(bits for each weight, rate, kernels); MXFP4 is multiplied in FP8 where FP4 units exist, else in 16 bits."""
    if precision == MXFP4:
        return _MXFP4_BITS, "fp8" if sku.dense_tflops.get("fp4") else "16", MXFP4
    return precisions.find(precision).weight_bits, *_MATH[precision]


def _stand_in(sku: Sku) -> Sku:
    """The SKU itself when its rates are known, else the one of its architecture that is nearest in memory."""
    if sku.dense_tflops.get("bf16") and sku.bandwidth_gbs:
        return sku
    kin = [other for other in skus().values() if other.arch == sku.arch and _is_complete(other)]
    return min(kin, key=lambda other: (_apart(other, sku), -(other.bandwidth_gbs or 0)), default=sku)


def _apart(one: Sku, other: Sku) -> float:
    return abs((one.memory_gb or 0) - (other.memory_gb or 0))


def _is_complete(sku: Sku) -> bool:
    return bool(sku.dense_tflops.get("bf16") and sku.bandwidth_gbs and sku.tdp_w)


def _power(sku: Sku, tflops16: float) -> float:
    """Power for each TFLOP/s against the part that the rows were measured on; unknown power counts as the same."""
    measured = skus().get(_MEASURED.get(sku.arch, ""))
    if measured is None or not (sku.tdp_w and tflops16 and measured.tdp_w):
        return 1.0
    return min(1.0, sku.tdp_w / tflops16 / (measured.tdp_w / (measured.dense_tflops["bf16"] or 1.0)))
