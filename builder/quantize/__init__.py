"""Checkpoint → quantized checkpoint: streams one decoder layer at a time from mapped shards into the layout's files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.checkpoint import Checkpoint
from builder.families import family_of
from builder.model_config import ModelConfig
from builder.quantize.calibration.calibrate import Calibration
from builder.quantize.calibration.resources import Resources, fitting_threads
from builder.quantize.calibration.runner import workers
from builder.quantize.calibration.samples import CalibrationSet
from builder.quantize.checks import check
from builder.quantize.journal import Journal
from builder.quantize.layouts import MAX_SHARD_BYTES, Ranks, open_layout
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Layout
from builder.quantize.stream import LayerStream
from trtllm_kit import __version__
from trtllm_kit.console import Talk
from trtllm_kit.errors import SpecError
from trtllm_kit.files import disk_errors, fingerprint, pretty_json

FIGURES_NAME = "quantization_figures.json"
"""Beside the weights: by module, what its algorithm measured of the solution that it chose."""


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    *,
    layout: Layout,
    tp_size: int,
    pp_size: int,
    out: Path,
    talk: Talk,
    calibration: CalibrationSet | None = None,
    resources: Resources | None = None,
    work: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Fill the empty folder `out` with `checkpoint` by `recipe`.

    Args:
        layout: "trtllm" (split into tp_size × pp_size ranks) or "hf" (never split, whatever the sizes).
        calibration: the tokens that statistics are taken from, where the recipe needs any.
        work: a folder that outlives a killed run, so that the same call goes on where it stopped; it is removed at the
            end. None: one beside `out`.
        max_shard_bytes: bound of a shard of the hf layout; a larger single tensor gets a shard of its own.

    The bytes depend on the checkpoint, recipe, layout, sizes, calibration and device alone. Raises SpecError for what
    cannot be done: before any work where headers tell, naming the tensor or the layer where only weights or
    activations tell. FitError for what `resources` do not allow. HostError when torch or disk space is missing.
    """
    ranks = Ranks(tp_size=tp_size, pp_size=pp_size)
    check(checkpoint, recipe, layout, ranks)
    if recipe.needs_calibration and calibration is None:
        raise SpecError(
            f"{recipe.precision} takes its scales from what passes through the model, and there is no calibration data",
            expected="token ids",
            fix="set calibration.data",
        )
    dtype = half_precision(recipe, checkpoint.config)
    stream = LayerStream(checkpoint, recipe, layout, dtype)
    if not recipe.needs_calibration:
        calibration = None
    key = _key(checkpoint, recipe, layout, ranks, calibration, max_shard_bytes)
    with disk_errors(out):
        work = work or out.with_name(f".{out.name}.work")
        with _calibrating(stream, checkpoint, recipe, calibration, resources or Resources(), work) as runs:
            journal = Journal(work, key)
            files = work / "files"
            files.mkdir(exist_ok=True)
            writer = open_layout(
                checkpoint,
                recipe,
                layout,
                dtype=dtype,
                ranks=ranks,
                out=files,
                max_shard_bytes=max_shard_bytes,
                resume=True,
            )
            try:
                stream.run(writer, runs, journal, talk)
            except BaseException:
                writer.abandon()
                raise
            writer.close()
        if journal.figures:
            (files / FIGURES_NAME).write_text(pretty_json(journal.figures), encoding="utf-8")
        for file in sorted(files.iterdir()):
            shutil.move(file, out / file.name)
        shutil.rmtree(work)


@contextmanager
def _calibrating(
    stream: LayerStream,
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: CalibrationSet | None,
    resources: Resources,
    work: Path,
) -> Iterator[Calibration | None]:
    """The model ready to run, where the recipe needs it: a recipe without statistics never builds one."""
    if calibration is None:
        yield None
        return
    family, config, needs = family_of(checkpoint.config.architecture), checkpoint.config, stream.solver.needs
    with workers(fitting_threads(resources, family, config, calibration.ids.shape[1], needs)) as pool:
        yield Calibration(
            family,
            config,
            calibration.ids,
            fill=stream.fill,
            rows=stream.rows,
            dtype=recipe.calibration_dtype,
            device=resources.device,
            work=work,
            pool=pool,
            twice=recipe.quantized_predecessors,
            keep_cache=recipe.kv_cache != "none",
        )


def _key(
    checkpoint: Checkpoint,
    recipe: Recipe,
    layout: Layout,
    ranks: Ranks,
    calibration: CalibrationSet | None,
    max_shard_bytes: int,
) -> str:
    """What a killed run must have in common with the one that goes on from it."""
    return fingerprint(
        {
            "kit": __version__,
            "checkpoint": checkpoint.digest,
            "recipe": recipe.inputs(),
            "layout": layout,
            "ranks": [ranks.tp_size, ranks.pp_size],
            "calibration": calibration and calibration.digest,
            "max_shard_bytes": max_shard_bytes,
        }
    )


def half_precision(recipe: Recipe, config: ModelConfig) -> str:
    """The dtype of what stays unquantized. A float32 checkpoint becomes bfloat16, which has the same range."""
    asked = recipe.schemes()[0].dtype
    return asked or ("bfloat16" if config.dtype == "float32" else config.dtype)
