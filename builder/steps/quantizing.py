"""The `quantize` stage: checkpoint, recipe and text in, one layout out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder.plan import BuildPlan
from builder.quantize import quantize
from builder.quantize.calibration import samples
from builder.quantize.calibration.resources import Resources
from builder.quantize.passthrough import pass_through
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Layout
from builder.quantize.torch_bits import import_torch
from trtllm_kit import __version__
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError

_CHECKED_TIMES = 2
"""How many groups are quantized alone to see what each costs, for each one that is to be left out."""


def inputs(plan: BuildPlan, layout: Layout) -> dict[str, Any]:
    """Everything that a byte depends on, plain JSON."""
    text = plan.calibration
    return {
        "kit": __version__,
        "checkpoint": plan.checkpoint.digest,
        "recipe": plan.recipe.inputs(),
        "layout": layout,
        **({"tp_size": plan.tp_size, "pp_size": plan.pp_size} if layout == "trtllm" else {}),
        **(
            {
                "calibration": {
                    "data": samples.source_digest(text.data),
                    "samples": text.samples,
                    "max_seq_len": text.max_seq_len,
                    "seed": text.seed,
                    "device": text.device,
                }
            }
            if text is not None
            else {}
        ),
    }


def run(plan: BuildPlan, layout: Layout, resources: Resources, out: Path, work: Path, talk: Talk) -> None:
    """Fill `out`: the checkpoint as it is where it came quantized, else quantized by the recipe.

    With `auto_exclude` it is done twice: once to measure what each linear costs, once without the costliest.
    """
    sizes = {"tp_size": plan.tp_size, "pp_size": plan.pp_size}
    if plan.checkpoint.quantized is not None:
        pass_through(plan.checkpoint, layout=layout, **sizes, out=out, talk=talk)
        return
    text = plan.calibration
    if text is not None:
        _check_device(text.device)
    calibration = text and samples.load(
        text.data,
        plan.checkpoint.path,
        samples=text.samples,
        length=text.max_seq_len,
        seed=text.seed,
        talk=talk,
    )
    rest: dict[str, Any] = {
        "layout": layout,
        **sizes,
        "calibration": calibration,
        "resources": replace(resources, device=text.device if text else "cpu"),
        "talk": talk,
    }
    recipe = plan.recipe
    if recipe.auto_exclude:
        trial = work / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir(parents=True)
        quantize(plan.checkpoint, recipe, **rest, out=trial, work=work / "first")
        recipe = without_costliest(plan, recipe, trial, work / "measure", talk)
        shutil.rmtree(trial)
    quantize(plan.checkpoint, recipe, **rest, out=out, work=work / "last")


def _check_device(device: str) -> None:
    """A GPU that the driver lists is none to a torch that was built for the processor."""
    if device == "cuda" and not import_torch("calibration").cuda.is_available():
        raise HostError(
            "calibration.device is cuda, and torch sees no GPU here",
            expected="a GPU, its driver, and a torch that was built for it",
            fix="set calibration.device to cpu, or install torch with CUDA",
        )


def without_costliest(plan: BuildPlan, recipe: Recipe, trial: Path, work: Path, talk: Talk) -> Recipe:
    """The recipe with the linears left out that cost most quality in `trial`, within its budget of bytes."""
    from builder.evaluate import choose_exclusions, evaluate
    from builder.steps.evaluating import settings_of

    settings = replace(settings_of(plan), kl_checks=_CHECKED_TIMES * recipe.auto_exclude)
    report = evaluate(plan.checkpoint, trial, settings=settings, talk=talk, work=work)
    size = sum(entry.size_bytes for entry in plan.checkpoint.tensors.values())
    budget = int(size * recipe.auto_exclude_budget)
    chosen = choose_exclusions(report.sensitivity, recipe.auto_exclude, budget)
    talk.say(f"left in half precision: {', '.join(chosen) or 'nothing fits the budget'}")
    return replace(recipe, exclude=(*recipe.exclude, *chosen))
