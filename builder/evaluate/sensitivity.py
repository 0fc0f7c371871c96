"""Which linears cost most quality, and which of them to leave unquantized for a few bytes more.

Two views. The error that a group alone causes in the residual stream comes with every evaluation. It ranks well among
neighbours, and says little across the model: an early error may be drowned or may grow. So the worst few are also
quantized one at a time, all else untouched, and followed to the logits: their KL divergence is what they cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from builder.evaluate.layer_errors import GroupError, LayerError


@dataclass(frozen=True, kw_only=True)
class SensitivityRow:
    """Linears that read one input; they are quantized, or left out, together, for runtimes fuse them."""

    modules: tuple[str, ...]  # full Hugging Face names, with `*` for the number of the expert
    output_error: float  # that they alone cause in the residual stream after their layer
    kl: float | None  # mean KL(base ‖ base with these alone quantized), nats a token; None: not checked
    extra_bytes: int  # what the checkpoint grows by when they stay in half precision


def rank(layers: Sequence[LayerError], extra_bytes: Mapping[str, int]) -> tuple[SensitivityRow, ...]:
    """Every quantized group, the largest error first; `extra_bytes` by pattern."""
    groups = [group for layer in layers for group in layer.groups if any(extra_bytes[name] for name in group.modules)]
    return tuple(_row(group, extra_bytes) for group in sorted(groups, key=lambda group: -group.output_error))


def with_kl(rows: Sequence[SensitivityRow], kl: Mapping[tuple[str, ...], float]) -> tuple[SensitivityRow, ...]:
    """The checked rows first, by their KL divergence; the others keep their order behind them."""
    checked = [replace(row, kl=kl[row.modules]) for row in rows if row.modules in kl]
    checked.sort(key=lambda row: -(row.kl or 0.0))
    return (*checked, *(row for row in rows if row.modules not in kl))


def choose_exclusions(rows: Sequence[SensitivityRow], count: int, max_extra_bytes: int) -> tuple[str, ...]:
    """Modules, or patterns of them, of the `count` worst groups that fit into `max_extra_bytes` together.

    A group that does not fit is passed over for the next one, so that one huge linear does not end the search.
    """
    chosen: list[str] = []
    for row in rows:
        if count == 0:
            break
        if row.extra_bytes <= max_extra_bytes:
            chosen += row.modules
            max_extra_bytes -= row.extra_bytes
            count -= 1
    return tuple(chosen)


def _row(group: GroupError, extra_bytes: Mapping[str, int]) -> SensitivityRow:
    return SensitivityRow(
        modules=group.modules,
        output_error=group.output_error,
        kl=None,
        extra_bytes=sum(extra_bytes[name] for name in group.modules),
    )
