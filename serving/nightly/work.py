"""One cell from its task to its refs: build, publish, compare, promote or keep. Killed anywhere, it can be run again.

Every step before a move of the refs leaves them as they were, every move is one compare-and-swap, and what was built or
uploaded is found again by its key or its digest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder import manifest as manifests
from builder.depot.depot import Depot
from builder.depot.records import CellName, CellRecord, Entry, Verdict
from builder.depot.ref_log import LostRace, Version
from builder.digests import DigestCache
from builder.pipeline import Pipeline
from builder.resolve import resolve
from builder.store import Store, default_root
from serving.nightly import ab
from serving.nightly.changes import changes_between
from serving.nightly.checkpoints import Checkpoints
from serving.nightly.executors.protocol import CellTask
from serving.nightly.here import is_here
from serving.nightly.plan import COMPARE, decide, known_key, pipeline_of
from serving.nightly.record import CellResult
from serving.nightly.steps import Steps
from trtllm_kit import spec as specs
from trtllm_kit.errors import SpecError
from trtllm_kit.identifier import BuildIdentifier


class OvertakenError(Exception):
    """Another night brought the cell to the same build, or to another one; `words` says which."""

    def __init__(self, version: Version, words: str, *, same: bool) -> None:
        super().__init__(words)
        self.version, self.words, self.same = version, words, same


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A cell at work."""

    task: CellTask
    name: CellName
    depot: Depot
    store: Store
    pipeline: Pipeline
    steps: Steps

    @property
    def key(self) -> str:
        return self.pipeline.stages["package"].key


def run_cell(task: CellTask, steps: Steps) -> CellResult:
    """Bring the cell to where its inputs say it should be. Raises KitError when a stage fails; the refs stay then."""
    cell = _open(task, steps)
    version = cell.depot.read(cell.name)
    key, here = known_key(cell.pipeline, version.record), is_here(cell.pipeline.plan.sku.id)
    action, words = decide(key, version.record, here=here)
    if action == "skip" and not task.force:
        return _result(cell, version, status="skipped", words=words)
    last = version.record.candidate or version.record.current
    changes = changes_between(last.inputs, cell.pipeline.stages) if last else ()
    try:
        return replace(_build_and_compare(cell, version, measure_only=action == "measure"), changes=changes)
    except OvertakenError as overtaken:
        status: Any = "built" if overtaken.same else "lost"
        return replace(_result(cell, overtaken.version, status=status, words=overtaken.words), changes=changes)


def inputs_of(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """Of every stage: what an entry remembers of its build."""
    return {name: dict(stage.inputs) for name, stage in pipeline.stages.items()}


def _open(task: CellTask, steps: Steps) -> _Cell:
    store = Store(Path(task.store) if task.store else default_root())
    depot = Depot.open(task.depot)
    with steps.step("fetch"):
        spec = specs.parse(dict(task.spec), origin=f"the task of {task.identifier}")
        checkpoints = Checkpoints(digests=DigestCache(store.digests_file), talk=steps)
        plan = resolve(spec, checkpoints.get(spec.model, trust_remote_code=spec.trust_remote_code))
    if str(plan.identifier) != task.identifier:
        raise SpecError(
            f"this machine takes the task for {plan.identifier}",
            expected=f"{task.identifier}, as the night planned it",
            fix="write the sizes that differ into the matrix, or plan again",
        )
    pipeline = pipeline_of(plan, store)
    name = CellName.of(BuildIdentifier.parse(task.identifier))
    return _Cell(task=task, name=name, depot=depot, store=store, pipeline=pipeline, steps=steps)


def _build_and_compare(cell: _Cell, version: Version, *, measure_only: bool) -> CellResult:
    known = version.record.candidate
    if measure_only and known is not None and not cell.task.force:
        with cell.steps.step("pull"):
            artifact = cell.depot.pull(known.digest, known.upload, cell.store, talk=cell.steps)
    else:
        artifact = _built(cell)
        digest = str(manifests.load(artifact)["digest"])
        if version.record.current is not None and version.record.current.digest == digest:
            return _same_bytes(cell, version, artifact)
        version = _published(cell, version, artifact, digest)
    return _compared(cell, version, artifact)


def _built(cell: _Cell) -> Path:
    if cell.task.force:
        cell.pipeline.drop()
    for row in cell.pipeline.reports():
        if row.action == "skip":
            cell.steps.skipped(row.name)
    return cell.pipeline.artifact() or cell.pipeline.run("package", cell.steps)


def _published(cell: _Cell, version: Version, artifact: Path, digest: str) -> Version:
    """The cell with the artifact as its candidate."""
    with cell.steps.step("publish"), cell.depot.publish(artifact, talk=cell.steps) as upload:
        entry = Entry(
            digest=digest, upload=upload, key=cell.key, inputs=inputs_of(cell.pipeline), night=cell.task.night
        )
        try:
            return _moved(cell, version, digest, version.record.built(entry, at_unix_s=time.time()))
        except OvertakenError as overtaken:
            found = overtaken.version.record.candidate
            if found is None or found.digest != digest or found.verdict is not None:
                raise
            return overtaken.version  # the same build, not compared yet: go on with it


def _compared(cell: _Cell, version: Version, artifact: Path) -> CellResult:
    record = version.record
    assert record.candidate is not None
    candidate, against = record.candidate, record.current.digest if record.current else None
    # The name of its work folder: two nights on one machine do not share it, and `artifact gc` lets it be.
    with cell.steps.step(COMPARE), cell.store.lock(f"{COMPARE}-{cell.key}"):
        unmeasurable = ab.unmeasurable(manifests.load(artifact))
        comparison = None if unmeasurable else _compare(cell, record, artifact)
    decision = comparison.decision if comparison else "not_measured"
    reasons = comparison.reasons if comparison else (unmeasurable or "",)
    verdict = Verdict(decision=decision, against=against, reasons=reasons, night=cell.task.night)
    version = _moved(cell, version, candidate.digest, record.judged(verdict, at_unix_s=time.time()))
    result = _result(cell, version, status="built", words=f"{decision.replace('_', ' ')}: {_one_line(reasons)}")
    return replace(
        result,
        decision=decision,
        reasons=reasons,
        figures=comparison.figures if comparison else (),
        artifact=candidate.digest,
        size_bytes=_size(artifact),
    )


def _compare(cell: _Cell, record: CellRecord, artifact: Path) -> ab.Comparison:
    incumbent = record.current
    return ab.compare(
        artifact,
        cell.depot.pull(incumbent.digest, incumbent.upload, cell.store, talk=cell.steps) if incumbent else None,
        rule=ab.Rule.model_validate(dict(cell.task.promotion)),
        store=cell.store,
        candidate_checkpoint=_checkpoint(cell, inputs_of(cell.pipeline)),
        incumbent_checkpoint=_checkpoint(cell, incumbent.inputs) if incumbent else None,
        work=cell.store.work_folder(COMPARE, cell.key),
        talk=cell.steps,
    )


def _checkpoint(cell: _Cell, inputs: Any) -> Path | None:
    """The quantized checkpoint that an engine was made of, where this machine still has it."""
    folder = cell.store.stage_folder("quantize", str(inputs["compile"]["quantized"]))
    return folder if folder.is_dir() else None


def _same_bytes(cell: _Cell, version: Version, artifact: Path) -> CellResult:
    """What was built anew is what is in service: nothing to compare, and at most the key to remember."""
    record, words = version.record, "built again, and the same bytes as in service"
    assert record.current is not None
    if record.current.key != cell.key:
        entry = replace(record.current, key=cell.key, inputs=inputs_of(cell.pipeline))
        moved = replace(record, current=entry, words=words, night=cell.task.night, at_unix_s=time.time())
        version = _moved(cell, version, entry.digest, moved)
    result = _result(cell, version, status="built", words=words)
    return replace(result, artifact=record.current.digest, size_bytes=_size(artifact))


def _moved(cell: _Cell, version: Version, digest: str, record: CellRecord) -> Version:
    """The cell after the move; OvertakenError when another night was faster: what it did stands."""
    try:
        return cell.depot.move(cell.name, version, record)
    except LostRace:
        now = cell.depot.read(cell.name)
    found = {entry.digest for entry in (now.record.candidate, now.record.current) if entry is not None}
    raise OvertakenError(now, f"another night was faster: {now.record.words}", same=digest in found)


def _result(cell: _Cell, version: Version, *, status: Any, words: str) -> CellResult:
    current = version.record.current
    return CellResult(
        identifier=cell.task.identifier,
        status=status,
        words=words,
        current=current.digest if current else None,
        stages=tuple(cell.steps.done),
    )


def _one_line(reasons: Sequence[str]) -> str:
    """Without the lines of a log that may stand below a reason."""
    return "; ".join(reason.split("\n", 1)[0] for reason in reasons)


def _size(artifact: Path) -> int:
    return sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
