"""Answers with intervals: the steady state, the correction, the user's own calibration, the roofline as a bound."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiles.performance import bands, calibration
from profiles.performance.columns import Columns, Question, columns
from profiles.performance.constants import constants_of, written
from profiles.performance.correction import correction
from profiles.performance.operation import steady, throughput, ttft_s
from profiles.performance.setup import Operating, Prediction

_MS = 1e3


@dataclass(frozen=True)
class Answer:
    """Figures of one question: when requests never run out, and what its users see (without a concurrency: as many
    as the replica holds)."""

    saturated_tokens_per_s: Prediction  # output tokens/s of the replica
    operating: Operating


def predict(questions: Sequence[Question], *, calibrated: bool = True) -> list[Answer]:
    """One answer for each question; thousands at once cost little more than one.

    `calibrated` False leaves the user's own calibration out.
    """
    asked = columns(questions)
    constants = constants_of(asked)
    state = steady(asked, constants)
    shift = np.exp(correction(asked, written()["correction"]))
    factors = calibration.known() if calibrated else {}
    own = [calibration.find(question.setup, factors) for question in questions]
    decode = np.array([scale.decode for scale in own])
    ceiling = state.sequences / state.least_token_s
    saturated = np.minimum(throughput(asked, constants, state) * shift / decode, ceiling)
    token_s = np.maximum(state.token_s / shift * decode, state.least_token_s)
    first_s = ttft_s(asked, constants, state, token_s) * np.array([scale.prefill for scale in own])
    users = np.where(np.isinf(asked.load), state.sequences, asked.load)
    rate = np.minimum(users * asked.osl / (first_s + (asked.osl - 1) * token_s), ceiling)
    around = functools.partial(_around, asked, own)
    return [
        Answer(
            saturated_tokens_per_s=around(place, "", saturated[place]),
            operating=Operating(
                output_tokens_per_s=around(place, "", rate[place], inverse=True),
                ttft_ms=around(place, "ttft ", first_s[place] * _MS),
                tpot_ms=around(place, "", token_s[place] * _MS),
                batch=float(state.sequences[place]),
            ),
        )
        for place in range(len(questions))
    ]


def _around(
    asked: Columns, own: Sequence[calibration.Scale], place: int, figure: str, value: float, *, inverse: bool = False
) -> Prediction:
    """`value` with its interval. Bands hold log(true / predicted) of what was measured; `inverse` turns times over."""
    scale = own[place]
    basis = bands.basis(*(asked.levels[name][place] for name in bands.LEVELS), figure)
    low, high = basis.low * scale.width, basis.high * scale.width
    if inverse:
        low, high = -high, -low
    return Prediction(
        value=float(value),
        low=float(value) * math.exp(low),
        high=float(value) * math.exp(high),
        basis=f"{scale.points} own points; {basis.text}" if scale.points else basis.text,
        calibrated=basis.calibrated or scale.points > 0,
    )
