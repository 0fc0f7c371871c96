"""From scores to a decision with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.evaluate.bootstrap import estimates
from builder.evaluate.decision import OVERALL, Decision, Judgement, decide, judge
from builder.evaluate.documents import Corpus
from builder.evaluate.limits import limits_for
from builder.evaluate.result import SliceQuality
from builder.evaluate.scores import Scores
from builder.evaluate.settings import EvaluationSettings

_FEWEST_DOCUMENTS = 8
"""Of a slice, for its interval to be worth a judgement."""


def understood(scores: Scores, vocabulary: int) -> Scores:
    """Without documents that the base knows less of than a blind guess among its words would.

    What it says of a script that it never saw is noise, quantized or not, and outweighs all the rest: losses there are
    many times larger. The base alone decides, so the comparison is not biased. A model that understands nothing at
    all, of random weights, keeps every document.
    """
    import numpy as np

    limit = np.log(vocabulary)
    kept = [score for score in scores.documents if score.nll_base.mean() <= limit]
    return Scores(kept) if kept else scores


def measure(scores: Scores, settings: EvaluationSettings) -> dict[str, SliceQuality]:
    """All documents together first, then each slice where there are several."""
    parts = {OVERALL: scores}
    if len(scores.slices) > 1:
        parts |= {name: scores.of_slice(name) for name in scores.slices}
    return {name: _measured(part, settings) for name, part in parts.items()}


def limits_in_force(width: int, slices: Mapping[str, SliceQuality], settings: EvaluationSettings) -> dict[str, float]:
    """By the base's perplexity on all documents; the same for every slice."""
    return limits_for(width, slices[OVERALL].metrics["perplexity_base"].value, settings.limits)


def pass_or_fail(
    slices: Mapping[str, SliceQuality], limits: Mapping[str, float], corpus: Corpus, settings: EvaluationSettings
) -> tuple[Decision, list[Judgement], list[str]]:
    """(decision, every judgement, why it is so)."""
    judged = {
        name: (row.tokens, row.metrics)
        for name, row in slices.items()
        if name == OVERALL or row.documents >= _FEWEST_DOCUMENTS
    }
    judgements = judge(judged, limits)
    short_of = _short_of(slices[OVERALL], settings)
    decision = decide(judgements, short_of=short_of)
    if decision == "pass":
        return decision, judgements, [f"every limit is kept with {settings.confidence:.0%} confidence"]
    if decision == "fail":
        return decision, judgements, [str(row) for row in judgements if row.decision == "fail"]
    return decision, judgements, [*(short_of or _open(judgements)), _supply(corpus, judgements)]


def _measured(scores: Scores, settings: EvaluationSettings) -> SliceQuality:
    metrics = estimates(scores, confidence=settings.confidence, resamples=settings.resamples, seed=settings.seed)
    return SliceQuality(documents=len(scores.documents), tokens=scores.tokens, metrics=metrics)


def _short_of(overall: SliceQuality, settings: EvaluationSettings) -> list[str]:
    """What there is too little of for any decision."""
    counts = (("tokens", overall.tokens, settings.min_tokens), ("documents", overall.documents, settings.min_documents))
    return [
        f"{count} {what} are too few to decide on: at least {needed - count} more {what} are needed"
        for what, count, needed in counts
        if count < needed
    ]


def _open(judgements: Sequence[Judgement]) -> list[str]:
    return [f"{row}: {_needs(row)}" for row in judgements if row.decision == "undecided" and row.slice == OVERALL]


def _needs(row: Judgement) -> str:
    if row.more_tokens is None:
        return "it lies so near its limit that more text will hardly tell"
    return f"about {row.more_tokens} more tokens would tell"


def _supply(corpus: Corpus, judgements: Sequence[Judgement]) -> str:
    wanted = max((row.more_tokens or 0 for row in judgements if row.slice == OVERALL), default=0)
    own = "give more with --data (evaluation.data)"
    if not corpus.unused_tokens:
        return f"all the text at hand was used: {own}"
    more = f", and {own}" if wanted > corpus.unused_tokens else ""
    return f"{corpus.unused_tokens} more tokens are at hand: raise --max-tokens (evaluation.max_tokens){more}"
