"""The two quantized checkpoints on held-out text, side by side: far more sensitive than any answer of a server.

What is computed is what the kernels would compute (builder.evaluate), one decoder layer of each side in memory. The
criterion is the loss on text, never likeness: a new revision of a model may say other things as well.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.checkpoint import Checkpoint
from builder.evaluate.batch import Batch
from builder.evaluate.bootstrap import Estimate, estimates
from builder.evaluate.checks import check_same_model
from builder.evaluate.documents import Corpus
from builder.evaluate.gate import understood
from builder.evaluate.hidden import HiddenStates
from builder.evaluate.scores import DocumentScore, Scores
from builder.evaluate.settings import EvaluationSettings
from builder.evaluate.sides import OpenLayer, QuantizedSide
from builder.evaluate.texts import load_corpus
from builder.quantize.reader import CheckpointReader, open_checkpoint
from builder.quantize.torch_bits import import_torch
from serving.nightly.ab.limits import judged
from serving.nightly.ab.rule import Rule
from serving.nightly.record import Figure
from trtllm_kit.console import Talk
from trtllm_kit.errors import QualityError
from trtllm_kit.files import disk_errors

if TYPE_CHECKING:
    from builder.quantize.calibration.runner import Workers

_ARITHMETIC = 1e-3
"""Nats a token that another order of adding, or another version of the quantizer, may make: those of 8 bits or less."""


def judge(
    candidate: Path,
    incumbent: Path,
    *,
    divergence_limit: float | None,
    tokenizer_dir: Path,
    rule: Rule,
    work: Path,
    talk: Talk,
) -> tuple[Figure, ...]:
    """The candidate's perplexity against the incumbent's and, where it has a limit, their divergence in nats a token.

    `work` is a folder for hidden states, removed at the end. SpecError for checkpoints of different shapes, HostError
    without torch or disk space, QualityError when the candidate computes NaN.
    """
    settings = EvaluationSettings(max_tokens=rule.text_tokens, confidence=rule.confidence, seed=rule.seed)
    readers = open_checkpoint(incumbent), open_checkpoint(candidate)
    check_same_model(readers[0].config, readers[1].config)
    corpus = _corpus(readers[0], tokenizer_dir, settings)
    with disk_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        try:
            scores = _scores(readers, corpus, work, talk)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    kept = understood(Scores(scores), readers[0].config.vocab_size)
    found = estimates(kept, confidence=settings.confidence, resamples=settings.resamples, seed=settings.seed)
    figures = [_perplexity(found, rule.max_perplexity_increase)]
    if divergence_limit is not None:
        figures.append(_divergence(found["kl_mean"], divergence_limit))
    return tuple(figures)


def divergence_limit(candidate: Mapping[str, Any], incumbent: Mapping[str, Any]) -> float | None:
    """For two manifests of one model in one precision; None for others."""
    if candidate["precision"] != incumbent["precision"] or candidate["model"]["digest"] != incumbent["model"]["digest"]:
        return None
    gate = (incumbent.get("quality") or {}).get("overall") or {}
    lost = gate["metrics"]["kl_mean"]["value"] if gate else 0.0
    return 4 * float(lost) + _ARITHMETIC


def _perplexity(found: Mapping[str, Estimate], limit: float) -> Figure:
    ratio = found["perplexity_ratio"]
    return Figure(
        metric="perplexity",
        unit="",
        candidate=found["perplexity"].value,
        incumbent=found["perplexity_base"].value,
        change=ratio.value - 1,
        low=ratio.low - 1,
        high=ratio.high - 1,
        limit=limit,
        status=judged(ratio.low - 1, ratio.high - 1, limit),
    )


def _divergence(kl: Estimate, limit: float) -> Figure:
    return Figure(
        metric="divergence",
        unit="nats a token",
        candidate=kl.value,
        low=kl.low,
        high=kl.high,
        limit=limit,
        status=judged(kl.low, kl.high, limit),
    )


def _corpus(reader: CheckpointReader, tokenizer_dir: Path, settings: EvaluationSettings) -> Corpus:
    text_of = Checkpoint(
        source=str(tokenizer_dir), path=tokenizer_dir, config=reader.config, tensors={}, files={}, digest=""
    )
    return load_corpus(text_of, settings)


def _scores(
    readers: tuple[CheckpointReader, CheckpointReader], corpus: Corpus, work: Path, talk: Talk
) -> list[DocumentScore]:
    torch = import_torch("comparing two checkpoints")
    from builder.quantize.calibration.runner import workers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, batch = readers[0].config, Batch(corpus.documents)
    incumbent, candidate = (QuantizedSide(reader, config, device) for reader in readers)
    with workers(1 if device == "cuda" else None) as pool:
        right = _last_hidden(incumbent, batch, batch.states(work / "incumbent.bin", config.hidden_size), pool, talk)
        made = _last_hidden(candidate, batch, batch.states(work / "candidate.bin", config.hidden_size), pool, talk)
        if not all(batch.run(lambda number: bool(made[number].isfinite().all()), pool)):
            raise QualityError("the candidate's hidden states are NaN or infinite", expected="finite numbers")
        return batch.compare((incumbent, candidate), (right, made), pool)


def _last_hidden(side: QuantizedSide, batch: Batch, states: HiddenStates, pool: Workers, talk: Talk) -> HiddenStates:
    """`states` after the final norm."""
    batch.embed(side, states)
    for index in range(side.config.num_hidden_layers):
        talk.progress(index, side.config.num_hidden_layers, "A/B: perplexity")
        with side.layer(index) as layer:

            def advance(number: int, layer: OpenLayer = layer) -> None:
                states.put(number, layer(states[number].to(side.device)))

            batch.run(advance, pool)
    batch.final_norm(side, states)
    return states
