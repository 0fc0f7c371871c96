"""One decoder layer of both models, and the base's with some of its linears computed as the quantized one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from builder.evaluate.groups import MeasuredGroup, measured_groups
from builder.evaluate.sides import OpenLayer
from builder.families import Family
from builder.model_config import ModelConfig
from builder.quantize.problem import Tensor


class LayerPair:
    """Both layers are in memory for as long as this is used."""

    def __init__(self, family: Family, config: ModelConfig, index: int, base: OpenLayer, other: OpenLayer) -> None:
        self.base, self.other = base, other
        self.groups = measured_groups(family, config, index)
        self._prefix = f"{family.layers}.{index}."
        self._family = family

    def quantized_groups(self) -> list[MeasuredGroup]:
        """The groups that the two layers compute differently."""
        return [group for group in self.groups if any(self._differs(module, group) for module in group.modules)]

    def weights(self, module: str, group: MeasuredGroup) -> tuple[Tensor, Tensor]:
        """The base's weight of a linear and the other's, both for the base's input."""
        name = self._local(module)
        linear, ratio = self.other.linears[name], self._norm_ratio(group)
        other = linear.weight if linear.smooth is None else linear.weight * linear.smooth
        return self.base.submodule(name).weight, other if ratio is None else other * ratio

    @contextmanager
    def swapped(self, group: MeasuredGroup) -> Iterator[OpenLayer]:
        """The base's layer; within the block it computes `group` as the quantized layer does."""
        ratio = self._norm_ratio(group)
        with ExitStack() as hooks:
            for name in map(self._local, group.modules):
                ours, theirs = (side.submodule(name) for side in (self.base, self.other))
                hooks.callback(ours.register_forward_hook(_instead(theirs, ratio)).remove)
            yield self.base

    def _differs(self, module: str, group: MeasuredGroup) -> bool:
        weight, other = self.weights(module, group)
        return self.other.linears[self._local(module)].prepare is not None or not weight.equal(other)

    def _norm_ratio(self, group: MeasuredGroup) -> Tensor | None:
        """The other norm's output by the base's, where a scale was folded into it; None where they are equal."""
        if group.norm is None:
            return None
        name = self._local(group.norm.removesuffix(".weight"))
        ours, theirs = (side.submodule(name).weight for side in (self.base, self.other))
        if ours.equal(theirs):
            return None
        offset = self._family.norm_offset(group.norm)
        # A channel that the base's norm makes zero stays zero, whatever it is multiplied by.
        return ((theirs + offset) / (ours + offset)).nan_to_num(1.0, 1.0, 1.0)

    def _local(self, module: str) -> str:
        return module.removeprefix(self._prefix)


def _instead(linear: Any, ratio: Tensor | None) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _module, inputs, _output: linear(inputs[0] if ratio is None else inputs[0] * ratio)
