"""The `evaluate` stage: what the quantized checkpoint lost, and whether the build may go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder.evaluate.settings import EvaluationSettings
from builder.plan import BuildPlan
from trtllm_kit import __version__
from trtllm_kit.console import Talk
from trtllm_kit.errors import QualityError
from trtllm_kit.files import pretty_json, read_json, sha256_file

REPORT, PICTURE = "quality.json", "quality.html"


def inputs(plan: BuildPlan, quantized_key: str) -> dict[str, Any]:
    """The checkpoint is covered by the key of the quantized one; the user's own data by its contents."""
    settings = settings_of(plan)
    return {
        "kit": __version__,
        "quantized": quantized_key,
        "limits": dict(settings.limits),
        "max_tokens": settings.max_tokens,
        "data": [sha256_file(path) for path in settings.data],
    }


def run(plan: BuildPlan, quantized: Path, out: Path, work: Path, talk: Talk) -> None:
    """Measure, and leave the report whatever it says: `check` is what stops a build."""
    from builder.evaluate import evaluate, write_report

    report = evaluate(plan.checkpoint, quantized, settings=settings_of(plan), talk=talk, work=work)
    (out / REPORT).write_text(pretty_json(report.to_json()), encoding="utf-8")
    write_report(report, out / PICTURE)


def check(folder: Path) -> None:
    """QualityError unless the report in `folder` says that no more was lost than allowed."""
    report = read_json(folder / REPORT, "the quality report")
    if report["decision"] != "pass":
        raise QualityError(
            f"the quality gate says {report['decision']}: " + "; ".join(report["reasons"]),
            expected="every limit kept, to the end of its confidence interval",
            fix=f"look at {folder / PICTURE}; leave the costliest layers in 16 bits (quantization.auto_exclude), "
            "calibrate on text of your own, choose a precision with more bits, or set evaluation.limits"
            if report["decision"] == "fail"
            else "evaluate on more text: evaluation.data with your own, or a larger evaluation.max_tokens",
        )


def summary(folder: Path) -> dict[str, Any]:
    """What the manifest says of the report; the report itself lies beside it in the artifact."""
    report = read_json(folder / REPORT, "the quality report")
    return {key: report[key] for key in ("decision", "overall", "limits") if key in report}


def settings_of(plan: BuildPlan) -> EvaluationSettings:
    own = plan.calibration.data if plan.calibration else "default"
    return EvaluationSettings(
        limits=plan.evaluation.limits,
        data=tuple(Path(name) for name in plan.evaluation.data),
        calibration=(Path(own),) if Path(own).is_file() else (),
        max_tokens=plan.evaluation.max_tokens,
    )
