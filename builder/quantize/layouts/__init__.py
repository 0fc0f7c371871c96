"""The two layouts of a quantized checkpoint, and what they share: placing tensors in the files of ranks or shards."""

from __future__ import annotations

from pathlib import Path

from builder.checkpoint import Checkpoint
from builder.families import family_of
from builder.quantize.layouts.base import LayoutWriter
from builder.quantize.layouts.checks import check_engine
from builder.quantize.layouts.description import Description
from builder.quantize.layouts.entries import entries_of
from builder.quantize.layouts.hf import MAX_SHARD_BYTES, HfWriter
from builder.quantize.layouts.ledger import can_resume
from builder.quantize.layouts.parallel import Ranks
from builder.quantize.layouts.trtllm import TrtllmWriter
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Layout

__all__ = ["MAX_SHARD_BYTES", "LayoutWriter", "Ranks", "check_layout", "open_layout"]


def check_layout(checkpoint: Checkpoint, recipe: Recipe, layout: Layout, ranks: Ranks) -> None:
    """SpecError for what `layout` cannot hold of this model by this recipe; needs no file but the headers."""
    described = _describe(checkpoint, recipe, layout, ranks)
    if layout == "trtllm":
        check_engine(described.family, described.config, recipe, ranks)
        described.family.trtllm_extras(described.config)
    described.check()


def open_layout(
    checkpoint: Checkpoint,
    recipe: Recipe,
    layout: Layout,
    *,
    dtype: str,
    ranks: Ranks,
    out: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    resume: bool = False,
) -> LayoutWriter:
    """A writer into the folder `out`, whose files are there at their whole size when this returns.

    Args:
        dtype: "float16" or "bfloat16", of whatever is not quantized.
        ranks: of the trtllm layout; hf is never split, whatever they are.
        max_shard_bytes: bound of a shard of the hf layout; a larger single tensor gets a shard of its own.
        resume: go on with what a killed run left in `out`, if it came as far as a flush; `written` says what that is.
    """
    resuming = resume and can_resume(out)
    if resume and not resuming:
        _clear(out)
    described = _describe(checkpoint, recipe, layout, ranks)
    entries = entries_of(described.family, checkpoint.config, recipe, layout, dtype)
    if layout == "trtllm":
        return TrtllmWriter(entries, described, dtype=dtype, ranks=ranks, out=out, resume=resuming)
    return HfWriter(
        checkpoint.path, entries, described, dtype=dtype, out=out, max_shard_bytes=max_shard_bytes, resume=resuming
    )


def _describe(checkpoint: Checkpoint, recipe: Recipe, layout: Layout, ranks: Ranks) -> Description:
    family = family_of(checkpoint.config.architecture)
    return Description(family=family, config=checkpoint.config, recipe=recipe, layout=layout, stages=ranks.pp_size)


def _clear(out: Path) -> None:
    """Remove files of a run that was killed before anything in them counted."""
    for path in out.glob("*.safetensors"):
        path.unlink()
