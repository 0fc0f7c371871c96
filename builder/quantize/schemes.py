"""The precisions that the quantizer knows, one row each: what the weights become and how each layout says so."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from profiles import precisions
from trtllm_kit.errors import SpecError

Layout = Literal["trtllm", "hf"]


@dataclass(frozen=True, kw_only=True)
class LayoutFacts:
    """How a scheme appears in one layout."""

    algorithm: str  # a row of builder.quantize.algorithms.ALGORITHMS: what the linears in the files become
    quant_algo: str | None  # upstream's name, None for unquantized
    exclude_modules: tuple[str, ...] | None  # None: upstream's default list
    feature_multiple: int = 1  # in and out features of each linear must divide by this × tp_size


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One precision."""

    name: str
    dtype: str | None  # of what is not quantized: "float16", "bfloat16"; None: the checkpoint's own half precision
    weight_bits: int  # per weight of a linear, as the runtime holds it
    group_size: int | None = None  # input features that share a scale; None: a whole row
    needs_calibration: bool = False
    fp8_math: bool = False
    gemm_plugin: str | None = "auto"  # upstream's advice for trtllm-build
    layouts: Mapping[Layout, LayoutFacts] = field(default_factory=dict)


_PLAIN = LayoutFacts(algorithm="copy", quant_algo=None, exclude_modules=None)
_ROWS = (
    Scheme(name="fp16", dtype="float16", weight_bits=16, layouts={"trtllm": _PLAIN, "hf": _PLAIN}),
    Scheme(name="bf16", dtype="bfloat16", weight_bits=16, layouts={"trtllm": _PLAIN, "hf": _PLAIN}),
    Scheme(
        name="int8_wo",
        dtype=None,
        weight_bits=8,
        layouts={
            # The engine's builder quantizes W8A16 itself and wants half precision in the file. `exclude_modules` would
            # replace upstream's list, which keeps the embedding out, so it stays null.
            "trtllm": LayoutFacts(algorithm="copy", quant_algo="W8A16", exclude_modules=None, feature_multiple=64),
            "hf": LayoutFacts(algorithm="int8_wo", quant_algo="W8A16", exclude_modules=("lm_head",)),
        },
    ),
)
SCHEMES: Mapping[str, Scheme] = MappingProxyType({row.name: row for row in _ROWS})


def find_scheme(name: str) -> Scheme:
    """The row of a precision; SpecError with the nearest known name."""
    scheme = SCHEMES.get(name)
    if scheme is None:
        near = difflib.get_close_matches(name, SCHEMES, n=1, cutoff=0.6)
        known = name in precisions.precisions()
        raise SpecError(
            f"the precision '{name}' " + ("cannot be made by the quantizer yet" if known else "is unknown"),
            expected="one of " + ", ".join(SCHEMES),
            fix=f"write '{near[0]}'" if near else "choose one of these, or `auto`",
        )
    return scheme


def layout_facts(scheme: Scheme, layout: str) -> LayoutFacts:
    """How `scheme` appears in `layout`; SpecError where it does not exist there."""
    facts = {str(name): row for name, row in scheme.layouts.items()}.get(layout)
    if facts is None:
        raise SpecError(
            f"{scheme.name} does not exist in the {layout} layout",
            expected="one of " + ", ".join(scheme.layouts),
            fix="choose another precision or runtime",
        )
    return facts
