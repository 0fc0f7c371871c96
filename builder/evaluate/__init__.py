"""The quality gate: what a quantized checkpoint lost against the checkpoint that it was made from.

Both go through the same held-out text side by side, one decoder layer of each in memory; what the quantized side
computes is what its kernels would. Metrics come with intervals, and a limit is judged by the whole interval.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from builder.checkpoint import Checkpoint
from builder.evaluate.batch import Batch
from builder.evaluate.checks import check_base, check_same_model, check_same_tokenizer
from builder.evaluate.documents import Corpus
from builder.evaluate.gate import limits_in_force, measure, pass_or_fail, understood
from builder.evaluate.limits import check_limits, nearest_width
from builder.evaluate.one_at_a_time import OneAtATime
from builder.evaluate.report import write_report
from builder.evaluate.result import QualityReport
from builder.evaluate.same import cast_of
from builder.evaluate.scores import Scores
from builder.evaluate.sensitivity import SensitivityRow, choose_exclusions, rank, with_kl
from builder.evaluate.settings import EvaluationSettings
from builder.evaluate.sides import BaseSide, QuantizedSide
from builder.evaluate.stored import average_bits, extra_bytes
from builder.evaluate.stream import Stream, Streamed
from builder.evaluate.texts import load_corpus
from builder.quantize.reader import CheckpointReader, open_checkpoint
from builder.quantize.torch_bits import import_torch
from trtllm_kit.console import Talk
from trtllm_kit.files import disk_errors

__all__ = ["EvaluationSettings", "QualityReport", "SensitivityRow", "choose_exclusions", "evaluate", "write_report"]


def evaluate(
    checkpoint: Checkpoint, quantized: Path, *, settings: EvaluationSettings, talk: Talk, work: Path
) -> QualityReport:
    """Compare the checkpoint in `quantized`, of either layout, with the `checkpoint` that it was made from.

    Args:
        work: a folder for hidden states while it runs, emptied at the end: 8 bytes for each token and hidden feature.

    The report is the same for the same inputs, whatever the number of threads. SpecError for limits that make no sense,
    checkpoints that cannot be compared and text that cannot be used, HostError without torch or disk space,
    QualityError when the quantized model computes NaN. A gate that is not passed is no exception here.
    """
    check_limits(settings.limits)
    check_base(checkpoint)
    reader = open_checkpoint(quantized)
    check_same_model(checkpoint.config, reader.config)
    check_same_tokenizer(checkpoint.path, quantized)
    about = _about(checkpoint, reader)
    dtype = cast_of(checkpoint, reader)
    if dtype is not None:
        reason = f"every weight is the base's in {dtype}, to the bit: there is nothing to measure"
        return QualityReport(decision="pass", reasons=(reason,), about=about)
    corpus = load_corpus(checkpoint, settings)
    with disk_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        try:
            streamed, sensitivity = _stream(checkpoint, reader, corpus, settings, talk, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    scores = understood(Scores(streamed.scores), checkpoint.config.vocab_size)
    slices = measure(scores, settings)
    limits = limits_in_force(nearest_width(average_bits(reader)), slices, settings)
    decision, judgements, reasons = pass_or_fail(slices, limits, corpus, settings)
    return QualityReport(
        decision=decision,
        reasons=tuple(reasons),
        about={
            **about,
            "documents_dropped": corpus.dropped,
            "documents_not_understood": len(streamed.scores) - len(scores.documents),
            **settings.describe(),
        },
        limits=limits,
        slices=slices,
        judgements=tuple(judgements),
        layers=streamed.layers,
        sensitivity=sensitivity,
    )


def _stream(
    checkpoint: Checkpoint,
    reader: CheckpointReader,
    corpus: Corpus,
    settings: EvaluationSettings,
    talk: Talk,
    work: Path,
) -> tuple[Streamed, tuple[SensitivityRow, ...]]:
    torch = import_torch("evaluation")
    from builder.quantize.calibration.runner import workers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    base, other = BaseSide(checkpoint, device), QuantizedSide(reader, checkpoint.config, device)
    batch = Batch(corpus.documents)
    with workers(1 if device == "cuda" else None) as pool:
        streamed = Stream(base, other, batch, work=work, pool=pool).run(talk)
        rows = rank(streamed.layers, extra_bytes(reader))
        checked = [row.modules for row in rows[: settings.kl_checks]]
        if checked:
            sample = batch.part(batch.sample())
            rows = with_kl(rows, OneAtATime(base, other, sample, checked, work=work, pool=pool).kl(talk))
    return streamed, rows


def _about(checkpoint: Checkpoint, reader: CheckpointReader) -> dict[str, Any]:
    return {
        "architecture": checkpoint.config.architecture,
        "base": checkpoint.digest,
        "layout": reader.layout,
        "quant_algo": reader.quant_algo,
        "kv_cache": reader.kv_cache,
        "bits": round(average_bits(reader), 3),
    }
