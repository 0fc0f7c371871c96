"""Text that the base does not know at all says nothing about what quantization lost."""

from __future__ import annotations

import math

import numpy as np

from builder.evaluate.gate import understood
from builder.evaluate.scores import DocumentScore, Scores


def scored(perplexity: float) -> DocumentScore:
    losses = np.full(10, math.log(perplexity))
    return DocumentScore(slice="own", nll_base=losses, nll=losses * 2, kl=losses, agreed=losses < 0)


def test_worse_than_a_blind_guess_is_left_out() -> None:
    scores = Scores([scored(perplexity) for perplexity in (5, 1999, 2001, 1e6)])
    assert understood(scores, 2000).documents == scores.documents[:2]


def test_a_model_that_knows_nothing_keeps_everything() -> None:
    scores = Scores([scored(3000), scored(4000)])
    assert understood(scores, 2000).documents == scores.documents
