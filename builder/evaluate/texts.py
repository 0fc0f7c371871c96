"""Held-out text from its sources: the bundled slices, and the user's own files."""

from __future__ import annotations

from collections.abc import Iterator

from builder.checkpoint import Checkpoint
from builder.evaluate.contamination import SeenTexts
from builder.evaluate.documents import Corpus, content_of, gather
from builder.evaluate.settings import EvaluationSettings
from builder.quantize.calibration.samples import encoder
from builder.quantize.calibration.texts import Document as Text
from builder.quantize.calibration.texts import bundled, read


def load_corpus(checkpoint: Checkpoint, settings: EvaluationSettings) -> Corpus:
    """Everything that `settings` name, in the token ids that the model expects."""
    calibrated = [text for path in settings.calibration for text in read(str(path), "calibration")]
    return gather(
        _texts(settings),
        encoder(checkpoint.path),
        seen=SeenTexts(map(content_of, calibrated)),
        max_tokens=settings.max_tokens,
        max_length=settings.max_length,
        positions=checkpoint.config.max_position_embeddings,
    )


def _texts(settings: EvaluationSettings) -> Iterator[Text]:
    """The user's own: all of their evaluation data, and the part of the calibration data that was left for this."""
    if settings.bundled:
        yield from bundled("heldout")
    for path in settings.data:
        yield from read(str(path), "calibration")
        yield from read(str(path), "heldout")
    for path in settings.calibration:
        yield from read(str(path), "heldout")
