"""The KL divergence that each of a few groups causes alone: the base, with nothing but that group quantized."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from builder.evaluate.batch import Batch
from builder.evaluate.groups import MeasuredGroup, measured_groups
from builder.evaluate.hidden import HiddenStates
from builder.evaluate.layer_pair import LayerPair
from builder.evaluate.sides import BaseSide, OpenLayer, QuantizedSide
from trtllm_kit.console import Talk

if TYPE_CHECKING:
    from builder.quantize.calibration.runner import Workers

_TITLE = "check the costliest linears"
Modules = tuple[str, ...]


class OneAtATime:
    """All variants go through the base's layers together, so that each layer is read once.

    A variant begins where its group lies: up to there it is the base.

    Args:
        work: a folder for the hidden states of the base and of each variant.
    """

    def __init__(
        self,
        base: BaseSide,
        other: QuantizedSide,
        batch: Batch,
        groups: Sequence[Modules],
        *,
        work: Path,
        pool: Workers,
    ) -> None:
        self._base, self._other, self._batch, self._pool = base, other, batch, pool
        self._states = batch.states(work / "alone.bin", base.config.hidden_size)
        self._variants = {
            modules: batch.states(work / f"alone{number}.bin", base.config.hidden_size)
            for number, modules in enumerate(groups)
        }

    def kl(self, talk: Talk) -> dict[Modules, float]:
        """Mean KL(base ‖ base with the group quantized) in nats a token, by group."""
        count = self._base.config.num_hidden_layers
        self._batch.embed(self._base, self._states)
        begun: list[Modules] = []
        for index in range(count):
            talk.progress(index, count + 1, _TITLE)
            begun += self._layer(index, begun)
        self._batch.final_norm(self._base, self._states)
        found = {modules: self._divergence(states) for modules, states in self._variants.items()}
        talk.progress(count + 1, count + 1, _TITLE)
        return found

    def _layer(self, index: int, begun: Sequence[Modules]) -> list[Modules]:
        """One layer for all that have begun; the variants that begin in it."""
        groups = measured_groups(self._base.family, self._base.config, index)
        here = [group for group in groups if group.patterns in self._variants]
        with ExitStack() as opened:
            layer = opened.enter_context(self._base.layer(index))
            for modules in begun:
                self._run(layer, self._variants[modules], self._variants[modules])
            if here:
                other = opened.enter_context(self._other.layer(index))
                pair = LayerPair(self._base.family, self._base.config, index, layer, other)
                for group in here:
                    self._begin(pair, group)
            self._run(layer, self._states, self._states)
        return [group.patterns for group in here]

    def _begin(self, pair: LayerPair, group: MeasuredGroup) -> None:
        with pair.swapped(group) as layer:
            self._run(layer, self._states, self._variants[group.patterns])

    def _run(self, layer: OpenLayer, source: HiddenStates, target: HiddenStates) -> None:
        self._batch.run(lambda number: target.put(number, layer(source[number].to(self._base.device))), self._pool)

    def _divergence(self, states: HiddenStates) -> float:
        self._batch.final_norm(self._base, states)
        scores = self._batch.compare((self._base, self._base), (self._states, states), self._pool)
        return float(sum(score.kl.sum() for score in scores) / sum(len(score.kl) for score in scores))
