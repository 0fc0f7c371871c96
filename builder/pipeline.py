"""One build from end to end: the stages in order, each keyed by what comes before it, and the artifact they make."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import yaml

from builder import manifest
from builder.compile.table import compiler_for
from builder.plan import BuildPlan
from builder.quantize.calibration.resources import Resources
from builder.stages import RECORD, Stage, StageReport, check_intact, digests_below, execute, report
from builder.steps import evaluating, quantizing
from builder.store import Store
from builder.tokenizer_files import copy_tokenizer
from trtllm_kit import __version__
from trtllm_kit.console import StderrTalk, Talk
from trtllm_kit.errors import KitError
from trtllm_kit.files import link_or_copy, pretty_json, read_json, rename_unless_there, sha256_file, sync_tree

STAGE_NAMES = ("quantize", "evaluate", "compile", "render", "package")


class Renderer(Protocol):
    """Rendering belongs to the floor above; the pipeline only needs to know what it depends on and to call it."""

    def inputs(self, plan: BuildPlan) -> dict[str, Any]:
        """Everything that the rendered repository depends on, plain JSON."""

    def render_into(self, plan: BuildPlan, out: Path) -> None:
        """Fill `out` with the model repository."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The stages of one plan in one store."""

    plan: BuildPlan
    store: Store
    renderer: Renderer
    resources: Resources = field(default_factory=Resources)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """By name, in order. Keys chain: a stage's key covers everything before it that it reads."""
        plan, compiler = self.plan, compiler_for(self.plan.runtime)
        quantized = Stage(
            name="quantize",
            inputs=quantizing.inputs(plan, compiler.LAYOUT),
            run=partial(quantizing.run, plan, compiler.LAYOUT, self.resources),
        )
        evaluated = Stage(
            name="evaluate",
            inputs=evaluating.inputs(plan, quantized.key),
            run=lambda out, work, talk: evaluating.run(plan, quantized.folder(self.store), out, work, talk),
        )
        compiled = Stage(
            name="compile",
            inputs={"kit": __version__, "quantized": quantized.key, "runtime": plan.runtime, **compiler.inputs(plan)},
            run=lambda out, _work, talk: compiler.compile(quantized.folder(self.store), plan, out, talk),
        )
        rendered = Stage(
            name="render",
            inputs={"kit": __version__, **self.renderer.inputs(plan)},
            run=lambda out, _work, _talk: self.renderer.render_into(plan, out),
        )
        package = Stage(
            name="package",
            inputs={
                "kit": __version__,
                "identifier": str(plan.identifier),
                "compile": compiled.key,
                "render": rendered.key,
                **({"evaluate": evaluated.key} if plan.evaluation.enabled else {}),
                "checkpoint": plan.checkpoint.digest,
                "spec": manifest.portable_spec(plan),
            },
            run=self._package,
        )
        gate = (evaluated,) if plan.evaluation.enabled else ()
        return {stage.name: stage for stage in (quantized, *gate, compiled, rendered, package)}

    def reports(self, upto: str = "package") -> list[StageReport]:
        """What each stage will do and why."""
        last = (self.store.get_ref(str(self.plan.identifier)) or {}).get("stages", {})
        return [report(stage, self.store, last.get(stage.name)) for stage in self._wanted(upto)]

    def artifact(self) -> Path | None:
        """The finished artifact of this very plan, if it is there."""
        package = self.stages["package"]
        if not package.is_done(self.store):
            return None
        folder = self.store.artifact_folder(_artifact_digest(package, self.store))
        return folder if (folder / manifest.MANIFEST).is_file() else None

    def run(self, upto: str, talk: StderrTalk) -> Path:
        """Run what is not done yet; returns the folder of the stage `upto`, or the artifact's for `package`."""
        self.store.sweep()
        stages = self.stages
        if upto in ("compile", "package") and not stages["compile"].is_done(self.store):
            compiler_for(self.plan.runtime).check(self.plan)
        folder = Path()
        for stage in self._wanted(upto):
            # Asked once: another build of the same plan may finish this stage at any moment.
            done = stage.is_done(self.store)
            if done and (stage.name != "package" or self.artifact() is not None):
                talk.say(f"{stage.name}: skipped, unchanged")
                folder = stage.folder(self.store)
            else:
                if done:  # the package stage, whose artifact was removed since
                    shutil.rmtree(stage.folder(self.store), ignore_errors=True)
                with talk.step(stage.name):
                    folder = execute(stage, self.store, talk)
            if stage.name == "evaluate":
                evaluating.check(folder)
        if upto != "package":
            return folder
        return self._publish()

    def drop(self) -> None:
        """Forget the stage outputs of this plan: the next run builds them anew. The artifact stays until then."""
        for stage in self.stages.values():
            shutil.rmtree(stage.folder(self.store), ignore_errors=True)

    def _wanted(self, upto: str) -> Iterator[Stage]:
        needed = {
            "quantize": {"quantize"},
            "evaluate": {"quantize", "evaluate"},
            "compile": {"quantize", "evaluate", "compile"},
            "render": {"render"},
            "package": set(STAGE_NAMES),
        }[upto]
        return (stage for name, stage in self.stages.items() if name in needed)

    def _package(self, out: Path, _work: Path, _talk: Talk) -> None:
        """Publish the artifact under its digest, then record the digest as this stage's output."""
        plan, stages = self.plan, self.stages
        parts = {
            "engine": stages["compile"].folder(self.store),
            "model_repository": stages["render"].folder(self.store),
            **({"quality": stages["evaluate"].folder(self.store)} if "evaluate" in stages else {}),
        }
        staging = out / "artifact"
        files: dict[str, str] = {}
        for part, source in parts.items():
            digests = digests_below(source)
            check_intact(source, digests)
            _link_tree(source, staging / part)
            files |= {f"{part}/{name}": digest for name, digest in digests.items()}
        copy_tokenizer(plan.checkpoint.path, staging / "tokenizer")
        files |= {f"tokenizer/{name}": digest for name, digest in digests_below(staging / "tokenizer").items()}
        spec_text = yaml.safe_dump(manifest.portable_spec(plan), sort_keys=False, allow_unicode=True)
        (staging / "spec.yaml").write_text(spec_text, encoding="utf-8")
        files["spec.yaml"] = sha256_file(staging / "spec.yaml")
        versions = compiler_for(plan.runtime).versions(plan)
        keys = {
            "fetch": plan.checkpoint.digest,
            **{name: stage.key for name, stage in stages.items() if name != "package"},
        }
        quality = evaluating.summary(parts["quality"]) if "quality" in parts else None
        facts = compiler_for(plan.runtime).facts(parts["engine"])
        content = manifest.make(
            plan, keys, versions, files, facts={**facts, **({"quality": quality} if quality else {})}
        )
        (staging / manifest.MANIFEST).write_text(pretty_json(content), encoding="utf-8")
        _publish_artifact(staging, self.store.artifact_folder(content["digest"]))
        shutil.rmtree(out / "damaged", ignore_errors=True)
        shutil.rmtree(staging, ignore_errors=True)
        (out / "artifact.json").write_text(pretty_json({"artifact": content["digest"]}), encoding="utf-8")

    def _publish(self) -> Path:
        stages = self.stages
        digest = _artifact_digest(stages["package"], self.store)
        self.store.set_ref(
            str(self.plan.identifier),
            {
                "artifact": digest,
                "source": self.plan.checkpoint.source,
                "stages": {name: dict(stage.inputs) for name, stage in stages.items()},
            },
        )
        return self.store.artifact_folder(digest)


def _artifact_digest(package: Stage, store: Store) -> str:
    return str(read_json(package.folder(store) / "artifact.json", "the package stage's record")["artifact"])


def _publish_artifact(staging: Path, final: Path) -> None:
    """Move `staging` to `final`. An intact artifact that is there already stays; a damaged one makes room."""
    if final.exists():
        try:
            manifest.verify(final)
        except KitError:
            final.rename(staging.with_name("damaged"))  # goes with the stage's temporary folder
        else:
            shutil.rmtree(staging)
            return
    final.parent.mkdir(parents=True, exist_ok=True)
    sync_tree(staging)
    rename_unless_there(staging, final)


def _link_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path.name != RECORD:
            link_or_copy(path, place)
