"""The precisions that the quantizer knows, one row each: what the weights become and how each layout says so."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from trtllm_kit.errors import SpecError

Layout = Literal["trtllm", "hf"]


@dataclass(frozen=True, kw_only=True)
class LayoutFacts:
    """How a scheme appears in one layout."""

    format: str  # a row of builder.quantize.formats.FORMATS
    quant_algo: str | None  # upstream's name, None for unquantized
    exclude_modules: tuple[str, ...] | None  # None: upstream's default list
    feature_multiple: int = 1  # in and out features of each linear must divide by this × tp_size
    fold: bool = False  # pre_quant_scale goes into the norm before the linears: the loader ignores it there
    share_scales: bool = False  # linears that read one input have equal scales for the whole tensor
    unserved: str | None = None  # why no GPU runtime loads it, where only the cpu runtime does


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One precision."""

    name: str
    algorithm: str  # a row of builder.quantize.algorithms.ALGORITHMS
    dtype: str | None = None  # of what is not quantized: "float16", "bfloat16"; None: the checkpoint's own half
    group_sizes: tuple[int, ...] = ()  # that its kernels take, the default first
    gemm_plugin: str | None = "auto"  # upstream's advice for trtllm-build
    fp8_math: bool = False  # whether FP8 context attention is possible
    layouts: Mapping[Layout, LayoutFacts] = field(default_factory=dict)
    missing: Mapping[Layout, str] = field(default_factory=dict)  # why a layout has no such scheme


_HEAD = ("lm_head",)
_PLAIN = LayoutFacts(format="plain", quant_algo=None, exclude_modules=None)


def _weight_only(quant_algo: str) -> LayoutFacts:
    """The engine's builder quantizes W8A16 and W4A16 itself and wants half precision in the file.

    `exclude_modules` would replace upstream's list, which keeps the embedding out, so it stays null.
    """
    return LayoutFacts(format="plain", quant_algo=quant_algo, exclude_modules=None, feature_multiple=64)


def _both(
    name: str, quant_algo: str, *, feature_multiple: int = 64, fold: bool = False
) -> Mapping[Layout, LayoutFacts]:
    """A scheme that both layouts hold as format `name`; what is fused or asserted equal shares its scales."""
    return {
        "trtllm": LayoutFacts(
            format=name,
            quant_algo=quant_algo,
            exclude_modules=_HEAD,
            feature_multiple=feature_multiple,
            share_scales=True,
        ),
        "hf": LayoutFacts(
            format=name,
            quant_algo=quant_algo,
            exclude_modules=_HEAD,
            fold=fold,
            share_scales=name in ("w4a8_group", "nvfp4"),
        ),
    }


_ROWS = (
    Scheme(name="fp16", algorithm="copy", dtype="float16", layouts={"trtllm": _PLAIN, "hf": _PLAIN}),
    Scheme(name="bf16", algorithm="copy", dtype="bfloat16", layouts={"trtllm": _PLAIN, "hf": _PLAIN}),
    Scheme(
        name="int8_wo",
        algorithm="round_to_nearest",
        layouts={
            "trtllm": _weight_only("W8A16"),
            "hf": LayoutFacts(format="int8_row", quant_algo="W8A16", exclude_modules=_HEAD),
        },
    ),
    Scheme(
        name="int4_wo",
        algorithm="round_to_nearest",
        layouts={
            "trtllm": _weight_only("W4A16"),
            "hf": LayoutFacts(format="int4_row", quant_algo="W4A16", exclude_modules=_HEAD),
        },
    ),
    Scheme(
        name="int8_sq",
        algorithm="smoothquant",
        layouts={
            "trtllm": LayoutFacts(
                format="int8_sq",
                quant_algo="W8A8_SQ_PER_CHANNEL",
                exclude_modules=_HEAD,
                feature_multiple=64,
                share_scales=True,
            ),
            "hf": LayoutFacts(
                format="int8_sq",
                quant_algo="W8A8_SQ_PER_CHANNEL",
                exclude_modules=_HEAD,
                unserved="the PyTorch backend has no SmoothQuant: its loader raises 'unsupported quant mode'",
            ),
        },
    ),
    Scheme(
        name="int4_awq",
        algorithm="awq",
        group_sizes=(128, 64),
        layouts=_both("int4_group", "W4A16_AWQ", fold=True),
    ),
    Scheme(
        name="w4a8_awq",
        algorithm="awq",
        group_sizes=(128, 64),
        fp8_math=True,
        layouts=_both("w4a8_group", "W4A8_AWQ", feature_multiple=128, fold=True),
    ),
    Scheme(name="fp8", algorithm="static", gemm_plugin=None, fp8_math=True, layouts=_both("fp8_tensor", "FP8")),
    Scheme(name="fp8_pc_pt", algorithm="round_to_nearest", layouts=_both("fp8_row", "FP8_PER_CHANNEL_PER_TOKEN")),
    Scheme(
        name="fp8_block",
        algorithm="round_to_nearest",
        layouts={"hf": LayoutFacts(format="fp8_block", quant_algo="FP8_BLOCK_SCALES", exclude_modules=_HEAD)},
        missing={"trtllm": "engines have no layout for FP8 block scales"},
    ),
    Scheme(
        name="nvfp4",
        algorithm="static",
        group_sizes=(16,),
        gemm_plugin="nvfp4",
        fp8_math=True,
        layouts=_both("nvfp4", "NVFP4"),
    ),
)
SCHEMES: Mapping[str, Scheme] = MappingProxyType({row.name: row for row in _ROWS})
MIXED = "mixed"
"""The precision whose layers have schemes of their own: `quantization.layers` of the spec."""


def find_scheme(name: str) -> Scheme:
    """The row of a precision; SpecError with the nearest known name."""
    scheme = SCHEMES.get(name)
    if scheme is None:
        near = difflib.get_close_matches(name, SCHEMES, n=1, cutoff=0.6)
        raise SpecError(
            f"the precision '{name}' is unknown",
            expected="one of " + ", ".join((*SCHEMES, MIXED)),
            fix=f"write '{near[0]}'" if near else "choose one of these, or `auto`",
        )
    return scheme


def layout_facts(scheme: Scheme, layout: str) -> LayoutFacts:
    """How `scheme` appears in `layout`; SpecError with the reason where it does not exist there."""
    facts = {str(name): row for name, row in scheme.layouts.items()}.get(layout)
    if facts is None:
        why = {str(name): reason for name, reason in scheme.missing.items()}.get(layout, "it has no such layout")
        raise SpecError(
            f"{scheme.name} does not exist in the {layout} layout: {why}",
            expected="one of " + ", ".join(scheme.layouts),
            fix="choose another precision or runtime",
        )
    return facts
