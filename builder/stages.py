"""A stage is a pure step: all that it depends on, a folder complete or absent, and a reason to run or to skip."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from builder.store import Store
from trtllm_kit.console import Talk
from trtllm_kit.errors import BuildStepError
from trtllm_kit.files import fingerprint, new_folder, pretty_json, read_json, sha256_file

RECORD = ".stage.json"
"""Beside a stage's output: its inputs, and the sha256 of every file that it wrote."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step. `inputs` is plain JSON and holds everything that the output depends on, earlier stages by their key."""

    name: str
    inputs: Mapping[str, Any]
    run: Callable[[Path, Path, Talk], None]
    """Called with the empty output folder, and with the name of a work folder that outlives a killed run."""

    @cached_property
    def key(self) -> str:
        """Fingerprint of the inputs: the same key, the same output."""
        return stage_key(self.name, self.inputs)

    def folder(self, store: Store) -> Path:
        return store.stage_folder(self.name, self.key)

    def is_done(self, store: Store) -> bool:
        return (self.folder(store) / RECORD).is_file()


def stage_key(name: str, inputs: Mapping[str, Any]) -> str:
    """The key under which a stage with these inputs keeps its output."""
    return fingerprint({"stage": name, "inputs": inputs})


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """What a stage will do or did, for plan and summary."""

    name: str
    action: str  # "run" | "skip"
    reason: str
    key: str
    folder: Path


def report(stage: Stage, store: Store, last_inputs: Mapping[str, Any] | None) -> StageReport:
    """Say whether `stage` must run, and which input changed since the last build of the same identifier."""
    if stage.is_done(store):
        action, reason = "skip", "its inputs are unchanged and its output is in the store"
    elif last_inputs is None:
        action, reason = "run", "never built for this identifier"
    else:
        changes = changed_inputs(last_inputs, stage.inputs)
        action, reason = "run", "changed: " + "; ".join(changes) if changes else "its output is not in the store"
    return StageReport(name=stage.name, action=action, reason=reason, key=stage.key, folder=stage.folder(store))


def execute(stage: Stage, store: Store, talk: Talk) -> Path:
    """The stage's finished folder; runs it unless another process has, while we waited for its lock."""
    folder = stage.folder(store)
    with store.lock(f"{stage.name}-{stage.key}"):
        if not stage.is_done(store):
            with new_folder(folder) as temporary:
                work = store.work_folder(stage.name, stage.key)
                stage.run(temporary, work, talk)
                record = {"inputs": dict(stage.inputs), "files": digests_below(temporary)}
                (temporary / RECORD).write_text(pretty_json(record), encoding="utf-8")
            shutil.rmtree(work, ignore_errors=True)
    return folder


def recorded_files(folder: Path) -> dict[str, str]:
    """sha256 by relative name, as the stage wrote its files."""
    return {str(name): str(digest) for name, digest in read_json(folder / RECORD, "a stage's record")["files"].items()}


def digests_below(folder: Path) -> dict[str, str]:
    """sha256 by relative POSIX name of every file below `folder`, a stage's own record left out."""
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RECORD
    }


def check_intact(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse a stage's output that is not what the stage wrote (a flipped bit, a file edited by hand)."""
    written = recorded_files(folder)
    damaged = sorted(name for name in written.keys() | digests.keys() if written.get(name) != digests.get(name))
    if damaged:
        raise BuildStepError(
            f"{folder} was changed after it was built: {', '.join(damaged[:5])}",
            expected="the files that the stage wrote, byte for byte",
            fix="build again with `trtllm-kit build model --rebuild`, which drops the damaged output",
        )


def changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Each leaf that differs, as `path: old → new`, long digests cut to what a person can compare."""
    before, after = _leaves(old), _leaves(new)
    return [
        f"{path}: {_short(before.get(path))} → {_short(after.get(path))}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves.update(_leaves(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
