"""How far a quantized decoder layer is from the base's: along the stream, alone, and linear by linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from builder.evaluate.groups import MeasuredGroup
from builder.evaluate.layer_pair import LayerPair
from builder.evaluate.sides import OpenLayer
from builder.quantize.problem import Tensor

if TYPE_CHECKING:
    from builder.quantize.calibration.runner import Workers

_BLOCK_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class GroupError:
    """Linears that read one input, quantized while all else stays as it was."""

    modules: tuple[str, ...]  # with `*` for the number of the expert
    weight_error: float  # ‖W′ − W‖ / ‖W‖ of them together
    output_error: float  # ‖h′ − h‖ / ‖h‖ of the layer's output, the residual stream


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """One decoder layer. Relative errors, ‖difference‖ / ‖base‖, of the residual stream after it."""

    layer: int
    stream_error: float  # of everything up to here, over all documents
    own_error: float  # of this layer alone, fed with the base's hidden states, over the sample
    groups: tuple[GroupError, ...]


class LayerMeter:
    """Measures a pair of layers on a sample of the base's hidden states.

    Args:
        inputs: [tokens, hidden] of each document before the layer.
        outputs: what the base's layer makes of them.
    """

    def __init__(self, pair: LayerPair, inputs: Sequence[Tensor], outputs: Sequence[Tensor], pool: Workers) -> None:
        self._pair, self._inputs, self._outputs, self._pool = pair, inputs, outputs, pool

    def own_error(self) -> float:
        """Of the whole quantized layer."""
        return self._output_error(self._pair.other)

    def groups(self) -> tuple[GroupError, ...]:
        """Of each group that is quantized, alone, in the family's order."""
        return tuple(self._group(group) for group in self._pair.quantized_groups())

    def _group(self, group: MeasuredGroup) -> GroupError:
        def weight(module: str) -> tuple[float, float]:
            base, other = self._pair.weights(module, group)
            return squares(other, base)

        with self._pair.swapped(group) as layer:
            output_error = self._output_error(layer)
        return GroupError(
            modules=group.patterns,
            weight_error=relative(self._pool.run(partial(weight, module) for module in group.modules)),
            output_error=output_error,
        )

    def _output_error(self, layer: OpenLayer) -> float:
        import torch

        def one(number: int) -> tuple[float, float]:
            with torch.inference_mode():
                return squares(layer(self._inputs[number]), self._outputs[number])

        return relative(self._pool.run(partial(one, number) for number in range(len(self._inputs))))


def squares(made: Tensor, base: Tensor) -> tuple[float, float]:
    """(Σ (made − base)², Σ base²), a block of rows at a time: the difference of two large weights is one more."""
    blocks = list(zip(made.split(_BLOCK_ROWS), base.split(_BLOCK_ROWS), strict=True))
    return (
        sum(float((ours - theirs).square().sum()) for ours, theirs in blocks),
        sum(float(theirs.square().sum()) for _, theirs in blocks),
    )


def relative(sums: Sequence[tuple[float, float]]) -> float:
    """‖difference‖ / ‖base‖ from the sums of each piece, added in their order."""
    difference, base = (sum(column) for column in zip(*sums, strict=True))
    return float((difference / base) ** 0.5) if base else 0.0
