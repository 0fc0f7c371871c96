"""What is other than in an earlier build: the inputs that people know, and not the keys that follow from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from builder.stages import Stage, changed_inputs, stage_key
from trtllm_kit.files import canonical_json

Inputs = Mapping[str, Mapping[str, Any]]
"""Of every stage, by its name."""


def changes_between(old: Inputs, stages: Mapping[str, Stage]) -> tuple[str, ...]:
    """Each changed leaf as `stage.input: old → new`, in the order of the stages and each change once."""
    before, after = _own(old), _own(_plain(stages))
    seen: set[str] = set()
    found: list[str] = []
    for name in stages:
        for change in changed_inputs(before.get(name, {}), after[name]):
            where, _, values = change.partition(": ")
            leaf = f"{where.rpartition('.')[2]}: {values}"
            if leaf not in seen:
                found.append(f"{name}.{change}")
                seen.add(leaf)
    return tuple(found)


def only_the_commit_moved(old: Inputs, stages: Mapping[str, Stage]) -> bool:
    """Whether a branch went on without a change in any file that a build reads: the artifact would differ in the name
    of the commit alone."""
    after = _plain(stages)
    if old.keys() != after.keys() or not _model(old["package"]):
        return False
    spec = {**after["package"]["spec"], "model": _model(old["package"])}
    after["package"]["spec"] = spec
    return {name: dict(inputs) for name, inputs in old.items()} == after


def _plain(stages: Mapping[str, Stage]) -> dict[str, dict[str, Any]]:
    """Inputs as a depot gives them back: a tuple has become a list."""
    plain: dict[str, dict[str, Any]] = json.loads(canonical_json({name: row.inputs for name, row in stages.items()}))
    return plain


def _model(package: Mapping[str, Any]) -> Any:
    """The model of a package stage; None when it is no repository on the hub, at a commit."""
    model = package.get("spec", {}).get("model")
    return model if isinstance(model, str) and "@" in model else None


def _own(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """Inputs without the keys of earlier stages, which only repeat that something there is other."""
    keys = {stage_key(name, row) for name, row in inputs.items()}
    return {
        name: {key: value for key, value in row.items() if not (isinstance(value, str) and value in keys)}
        for name, row in inputs.items()
    }
