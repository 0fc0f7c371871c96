"""How much memory a calibration may take, and how many threads fit into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from builder.families import Family, LinearGroup
from builder.model_config import ModelConfig
from builder.quantize.calibration.hidden import chunk_tokens
from trtllm_kit.errors import FitError

_RUNTIME_BYTES = 350_000_000  # torch, transformers and what they keep, measured
_COPIES = 6  # float tensors of an MLP's width, and of a layer's, that live at once in a forward pass
_SOLVER_COPIES = 4  # of a linear's weight that an algorithm has at once


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where the forward pass runs and how much it may use; none of it changes a byte but `device`."""

    device: str = "cpu"  # or "cuda"
    max_ram_bytes: int | None = None  # of memory of the process's own; mapped files are not counted
    max_vram_bytes: int | None = None


def fitting_threads(
    resources: Resources,
    family: Family,
    config: ModelConfig,
    length: int,
    needs: Callable[[LinearGroup], frozenset[str]],
) -> int:
    """How many chunks can be under way at once. FitError, with the numbers, when not even one can.

    Args:
        length: tokens of a sample.
        needs: statistics that the algorithm of a group asks for.
    """
    fixed, each = _fixed_bytes(family, config, needs), _chunk_bytes(config, length)
    if resources.device != "cpu":
        layer = 4 * 2 * sum(_sizes(family, config, 0))  # and the next one
        _check(fixed + each + layer, resources.max_vram_bytes, "GPU memory", "--max-vram", length)
        return 1
    base = _RUNTIME_BYTES + fixed
    _check(base + each, resources.max_ram_bytes, "memory", "--max-ram", length)
    processors = len(os.sched_getaffinity(0))
    if resources.max_ram_bytes is None:
        return processors
    return max(1, min(processors, (resources.max_ram_bytes - base) // each))


def _check(needed: int, limit: int | None, what: str, flag: str, length: int) -> None:
    if limit is not None and needed > limit:
        raise FitError(
            f"one decoder layer needs about {needed / 1e9:.2f} GB of {what} for samples of {length} tokens, "
            f"and {flag} allows {limit / 1e9:.2f} GB",
            expected=f"at least {needed / 1e9:.2f} GB",
            fix=f"raise {flag}, shorten calibration.max_seq_len, or choose a precision that needs no calibration",
        )


def _fixed_bytes(family: Family, config: ModelConfig, needs: Callable[[LinearGroup], frozenset[str]]) -> int:
    """Gram matrices of a layer, of one of its experts at a time, and what an algorithm copies of one weight."""
    shapes = dict(family.layer_shapes(config, 0))
    owner = {found.name: found.expert for found in family.modules(config, 0)}
    grams: dict[int | None, int] = {}
    for group in family.groups(config, 0):
        if "gram" in needs(group):
            expert, columns = owner[group.modules[0]], shapes[f"{group.modules[0]}.weight"][1]
            grams[expert] = grams.get(expert, 0) + 4 * columns**2
    return max(grams.values(), default=0) + 4 * _SOLVER_COPIES * max(_sizes(family, config, 0))


def _sizes(family: Family, config: ModelConfig, layer: int) -> Iterable[int]:
    return [shape[0] * shape[-1] for _, shape in family.layer_shapes(config, layer)]


def _chunk_bytes(config: ModelConfig, length: int) -> int:
    inner = config.moe_intermediate_size or config.intermediate_size
    attention = config.num_attention_heads * config.head_size
    return 4 * _COPIES * chunk_tokens(length) * (config.hidden_size + attention + inner)
