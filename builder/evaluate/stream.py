"""Base and quantized model side by side through all documents, with one decoder layer of each in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.evaluate.batch import Batch
from builder.evaluate.hidden import HiddenStates
from builder.evaluate.layer_errors import LayerError, LayerMeter, relative, squares
from builder.evaluate.layer_pair import LayerPair
from builder.evaluate.scores import DocumentScore
from builder.evaluate.sides import BaseSide, QuantizedSide
from trtllm_kit.console import Talk
from trtllm_kit.errors import KitError, QualityError, SpecError

if TYPE_CHECKING:
    from builder.quantize.calibration.runner import Workers

_TITLE = "evaluate"


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """What one pass through both models gives."""

    scores: list[DocumentScore]
    layers: tuple[LayerError, ...]


class Stream:
    """One evaluation.

    Args:
        work: a folder for the hidden states between layers; what is there is overwritten.
    """

    def __init__(self, base: BaseSide, other: QuantizedSide, batch: Batch, *, work: Path, pool: Workers) -> None:
        self._base, self._other, self._batch, self._pool = base, other, batch, pool
        size = base.config.hidden_size
        self._base_states = batch.states(work / "base.bin", size)
        self._other_states = batch.states(work / "quantized.bin", size)
        self._sample = batch.sample()

    def run(self, talk: Talk) -> Streamed:
        """Everything. QualityError where the quantized model computes NaN or infinity, SpecError for the base."""
        count = self._base.config.num_hidden_layers
        self._batch.embed(self._base, self._base_states)
        self._batch.embed(self._other, self._other_states)
        layers = []
        for index in range(count):
            talk.progress(index, count + 1, _TITLE)
            layers.append(self._layer(index))
        self._batch.final_norm(self._base, self._base_states)
        self._batch.final_norm(self._other, self._other_states)
        self._check_finite("the final norm")
        sides, states = (self._base, self._other), (self._base_states, self._other_states)
        scores = self._batch.compare(
            sides, states, self._pool, lambda share: talk.progress(count + share, count + 1, _TITLE)
        )
        return Streamed(scores=scores, layers=tuple(layers))

    def _layer(self, index: int) -> LayerError:
        device = self._base.device
        with self._base.layer(index) as base, self._other.layer(index) as other:
            inputs = [self._base_states[number].to(device, copy=True) for number in self._sample]

            def advance(number: int) -> tuple[float, float]:
                made = other(self._other_states[number].to(device))
                right = base(self._base_states[number].to(device))
                self._other_states.put(number, made)
                self._base_states.put(number, right)
                return squares(made, right)

            errors = self._batch.run(advance, self._pool)
            self._check_finite(f"layer {index}")
            outputs = [self._base_states[number].to(device) for number in self._sample]
            pair = LayerPair(self._base.family, self._base.config, index, base, other)
            meter = LayerMeter(pair, inputs, outputs, self._pool)
            return LayerError(
                layer=index, stream_error=relative(errors), own_error=meter.own_error(), groups=meter.groups()
            )

    def _check_finite(self, where: str) -> None:
        """The base first: where it is broken, nothing can be said of the other."""
        for states, error in ((self._base_states, _broken_base), (self._other_states, _broken)):
            finite = self._batch.run(_is_finite(states), self._pool)
            if not all(finite):
                raise error(where)


def _is_finite(states: HiddenStates) -> Callable[[int], bool]:
    return lambda number: bool(states[number].isfinite().all())


def _broken_base(where: str) -> KitError:
    return SpecError(
        f"the base's hidden states are NaN or infinite after {where}",
        expected="finite numbers in float32",
        fix="check that the checkpoint answers sensibly in transformers",
    )


def _broken(where: str) -> KitError:
    return QualityError(
        f"the quantized model's hidden states are NaN or infinite after {where}",
        expected="finite numbers",
        fix="leave that layer unquantized, or choose another precision",
    )
