"""Read a checkpoint back, quantized or not: by Hugging Face name, from either layout, ours or ModelOpt's or others'."""

from __future__ import annotations

from pathlib import Path

from builder.prequantized import find_quantization
from builder.quantize.reader.base import CheckpointReader
from builder.quantize.reader.foreign import METHODS, ForeignReader
from builder.quantize.reader.hf import HfReader
from builder.quantize.reader.trtllm import TrtllmReader
from trtllm_kit.files import read_json

__all__ = ["CheckpointReader", "open_checkpoint"]


def open_checkpoint(folder: Path) -> CheckpointReader:
    """A reader for what `folder` holds.

    Raises SpecError for a checkpoint that is none, IntegrityError for files that are not what their headers say.
    """
    raw = read_json(folder / "config.json", "the checkpoint's config")
    if "architecture" in raw:
        return TrtllmReader(folder, raw)
    settings = raw.get("quantization_config")
    if isinstance(settings, dict) and settings.get("quant_method") in METHODS:
        return ForeignReader(folder, raw)
    find_quantization(folder, raw)  # refuses what would be read as if it were not quantized
    return HfReader(folder, raw)
