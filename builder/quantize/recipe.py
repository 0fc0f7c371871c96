"""What the quantizer is asked to do: which linear gets which scheme, and every knob that changes a byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from builder.quantize.algorithms import ALGORITHMS
from builder.quantize.formats import FORMATS, PLAIN, Format
from builder.quantize.schemes import MIXED, SCHEMES, Layout, LayoutFacts, Scheme


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of it is part of the stage's fingerprint; where and how fast it is computed is not."""

    precision: str  # a row of SCHEMES, or "mixed"
    layers: Mapping[str, str] = field(default_factory=dict)  # of "mixed": pattern of module names -> scheme
    exclude: tuple[str, ...] = ()  # patterns of Hugging Face module names that stay in half precision
    group_size: int | None = None  # None: the scheme's own
    kv_cache: str = "none"  # "none" | "fp8" | "int8" | "nvfp4"
    smoothquant_alpha: float = 0.9
    awq_clip: bool = True
    quantized_predecessors: bool = False  # calibrate each layer on what quantized layers before it pass on
    auto_exclude: int = 0  # leave this many of the most sensitive linears in half precision
    auto_exclude_budget: float = 0.05  # at most so many more bytes of linear weights, as a share
    calibration_digest: str | None = None  # of the token ids that statistics are taken from; None: none are
    calibration_dtype: str = "float32"  # of the forward pass; the statistics are float32

    def scheme_of(self, module: str) -> Scheme | None:
        """The scheme of a linear by its Hugging Face name; None for half precision."""
        if any(fnmatchcase(module, pattern) for pattern in self.exclude):
            return None
        if self.precision != MIXED:
            return SCHEMES[self.precision]
        name = next((name for pattern, name in self.layers.items() if fnmatchcase(module, pattern)), None)
        return None if name is None else SCHEMES[name]

    def facts_of(self, module: str, layout: Layout) -> LayoutFacts | None:
        """How the module's scheme appears in `layout`; None for half precision."""
        scheme = self.scheme_of(module)
        return None if scheme is None else scheme.layouts[layout]

    def format_of(self, module: str, layout: Layout) -> Format:
        """How the module's linear is stored in `layout`, before anything is folded."""
        scheme, facts = self.scheme_of(module), self.facts_of(module, layout)
        if scheme is None or facts is None:
            return PLAIN
        found = FORMATS[facts.format]
        if not scheme.group_sizes:
            return found
        # In a mixed recipe the size is for the schemes that have a choice.
        chosen = next((size for size in scheme.group_sizes if size == self.group_size), scheme.group_sizes[0])
        return found.of_group(chosen)

    def schemes(self) -> tuple[Scheme, ...]:
        """Every scheme that a linear may get."""
        names = dict.fromkeys(self.layers.values()) if self.precision == MIXED else (self.precision,)
        return tuple(SCHEMES[name] for name in names)

    @property
    def needs_calibration(self) -> bool:
        """Whether any scale depends on what passes through the model."""
        return self.kv_cache in ("int8", "nvfp4") or any(ALGORITHMS[row.algorithm].STATISTICS for row in self.schemes())

    def inputs(self) -> dict[str, Any]:
        """Plain JSON for the fingerprint. What an unquantized copy does not read is left out."""
        return {
            "precision": self.precision,
            "layers": dict(self.layers),
            "exclude": list(self.exclude),
            "group_size": self.group_size,
            "kv_cache": self.kv_cache,
            "smoothquant_alpha": self.smoothquant_alpha,
            "awq_clip": self.awq_clip,
            "quantized_predecessors": self.quantized_predecessors,
            "auto_exclude": self.auto_exclude,
            "auto_exclude_budget": self.auto_exclude_budget,
            "calibration": self.calibration_digest,
            "calibration_dtype": self.calibration_dtype,
        }
