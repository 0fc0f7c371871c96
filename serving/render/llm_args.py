"""`model.yaml` of the llmapi layout: the runtime's own arguments, with the places of an artifact's parts."""

from __future__ import annotations

from typing import Any

from builder.compile import pytorch
from builder.plan import BuildPlan
from serving.render.parameters import placed


def llm_args(plan: BuildPlan) -> dict[str, Any]:
    """Keyword arguments of LLM; a nested dict for each configuration class."""
    places = {"model": placed(plan.serving.root, "engine"), "tokenizer": placed(plan.serving.root, "tokenizer")}
    return {**places, **pytorch.llm_args(plan)}


def triton_config(plan: BuildPlan) -> dict[str, Any]:
    """What the model tells Triton when configuration is auto-completed; `config.pbtxt` says the same."""
    return {"max_batch_size": 0, "decoupled": plan.serving.decoupled_mode, "cancellation_check_period_ms": 100}
