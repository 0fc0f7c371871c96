"""The linears that are measured together: those that read one input, and all experts of a layer as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.families import Family
from builder.model_config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class MeasuredGroup:
    """Linears that are quantized, or left out, together: runtimes fuse them, or stack them by expert."""

    patterns: tuple[str, ...]  # their names, with `*` for the number of the expert
    modules: tuple[str, ...]  # full Hugging Face names
    norm: str | None  # as LinearGroup's


def measured_groups(family: Family, config: ModelConfig, index: int) -> list[MeasuredGroup]:
    """Of one decoder layer, in the family's order."""
    patterns = patterns_of(family, config, index)
    found: dict[tuple[str, ...], list[tuple[tuple[str, ...], str | None]]] = {}
    for group in family.groups(config, index):
        found.setdefault(_unique([patterns[name] for name in group.modules]), []).append((group.modules, group.norm))
    return [
        MeasuredGroup(patterns=names, modules=tuple(name for modules, _ in rows for name in modules), norm=rows[0][1])
        for names, rows in found.items()
    ]


def patterns_of(family: Family, config: ModelConfig, index: int) -> dict[str, str]:
    """The pattern of each linear of one layer, by its name."""
    return {
        module.name: f"{family.layers}.{index}.{module.linear.hf.format(e='*')}"
        for module in family.modules(config, index)
    }


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
