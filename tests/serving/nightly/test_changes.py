"""What changed since a build, in words that people know."""

from __future__ import annotations

import json
from typing import Any

from builder.stages import Stage
from serving.nightly.changes import changes_between, only_the_commit_moved

Inputs = dict[str, dict[str, Any]]


def stages(checkpoint: str = "c1", *, model: str = "acme/m@0", queue: int = 0, size: int = 8) -> dict[str, Stage]:
    """Three stages that are keyed as those of a build: each by what is before it."""

    def stage(name: str, **inputs: Any) -> Stage:
        return Stage(name=name, inputs=inputs, run=lambda *_: None)

    quantize = stage("quantize", checkpoint=checkpoint)
    compiled = stage("compile", quantized=quantize.key, settings={"size": size, "ends": (1, 2)})
    spec = {"model": model, "serving": {"queue": queue}}
    package = stage("package", compile=compiled.key, checkpoint=checkpoint, spec=spec)
    return {row.name: row for row in (quantize, compiled, package)}


def remembered(found: dict[str, Stage]) -> Inputs:
    """As a depot gives them back."""
    return json.loads(json.dumps({name: stage.inputs for name, stage in found.items()}))


def test_nothing_changed_is_no_change() -> None:
    assert changes_between(remembered(stages()), stages()) == ()


def test_a_change_is_told_once_where_it_came_in() -> None:
    assert changes_between(remembered(stages()), stages("c2", queue=7)) == (
        "quantize.checkpoint: c1 → c2",
        "package.spec.serving.queue: 0 → 7",
    )
    assert changes_between(remembered(stages()), stages(size=16)) == ("compile.settings.size: 8 → 16",)


def test_only_a_commit_that_moved_is_no_reason_to_build() -> None:
    old = remembered(stages())
    assert only_the_commit_moved(old, stages(model="acme/m@1"))
    assert only_the_commit_moved(old, stages())
    assert not only_the_commit_moved(old, stages("c2", model="acme/m@1"))
    assert not only_the_commit_moved(old, stages(model="acme/m@1", queue=7))
    assert not only_the_commit_moved(old, {name: row for name, row in stages().items() if name != "quantize"})
    folder = remembered(stages(model="m"))
    assert not only_the_commit_moved(folder, stages(model="n"))
