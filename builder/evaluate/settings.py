"""What an evaluation is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = 20261121


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """All of it changes the report, so all of it belongs into a stage's fingerprint."""

    limits: Mapping[str, float] = field(default_factory=dict)  # of LIMITED, in place of the row's own
    data: tuple[Path, ...] = ()  # JSONL of the user's own texts or chats: a slice of their own
    bundled: bool = True  # the kit's own held-out text too
    calibration: tuple[Path, ...] = ()  # JSONL that was calibrated on, but for the part of it that was held out
    max_tokens: int = 32768  # that are predicted, shared evenly among the slices
    max_length: int = 2048  # tokens that the model sees at once, but for the long context slice: four times as many
    min_tokens: int = 4096  # below either of these nothing is decided
    min_documents: int = 20
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = SEED
    kl_checks: int = 0  # of the groups that cost most, each quantized alone: its own KL

    def describe(self) -> dict[str, Any]:
        """What a reader of the report needs to judge its figures."""
        return {
            "max_tokens": self.max_tokens,
            "max_length": self.max_length,
            "confidence": self.confidence,
            "resamples": self.resamples,
            "seed": self.seed,
        }
