"""Is the candidate as good as the incumbent: by its checkpoint on held-out text, and by what its server answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.evaluate.checks import check_same_tokenizer
from serving.client.errors import RequestError
from serving.nightly.ab import accuracy, perplexity
from serving.nightly.ab.accuracy import Context
from serving.nightly.ab.contender import Contender, LostError, Served
from serving.nightly.ab.rule import Rule
from serving.nightly.record import Figure
from serving.validate.smoke import smoke
from trtllm_kit.console import Talk
from trtllm_kit.errors import HostError, SpecError

Checkpoints = tuple[Path | None, Path | None]
"""The quantized checkpoints of candidate and incumbent, where they are on this machine."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Figures, and words where something could not be compared."""

    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()


def why_no_text(candidate: Path, incumbent: Path) -> str | None:
    """Why the two artifacts cannot be held against the same text; None when they can."""
    try:
        check_same_tokenizer(incumbent / "tokenizer", candidate / "tokenizer")
    except SpecError as error:
        return f"quality is not compared: {error.happened}"
    return None


def by_checkpoint(
    sides: tuple[Served, Served], checkpoints: Checkpoints, rule: Rule, work: Path, talk: Talk
) -> Finding:
    """The loss of the two quantized checkpoints. QualityError when the candidate's computes NaN.

    Both arguments: the candidate's first.
    """
    candidate, incumbent = checkpoints
    if candidate is None or incumbent is None:
        missing = "candidate" if candidate is None else "incumbent"
        return Finding(notes=(f"perplexity is not compared: no quantized checkpoint of the {missing} on this machine",))
    if candidate.resolve() == incumbent.resolve():
        return Finding(notes=("both are built from the same quantized checkpoint",))
    talk.say("A/B: perplexity of both checkpoints")
    try:
        figures = perplexity.judge(
            candidate,
            incumbent,
            divergence_limit=perplexity.divergence_limit(sides[0].manifest, sides[1].manifest),
            tokenizer_dir=sides[0].artifact / "tokenizer",
            rule=rule,
            work=work,
            talk=talk,
        )
    except (SpecError, HostError) as error:
        return Finding(notes=(f"perplexity is not compared: {error.happened}",))
    return Finding(figures=figures)


def check_answers(side: Contender, manifest: Mapping[str, Any]) -> None:
    """LostError unless a plain and a streamed completion come and agree."""
    assert side.endpoint is not None
    found = smoke(side.endpoint, decoupled=bool(manifest["spec"]["serving"]["decoupled_mode"]))
    if found.status == "fail":
        raise LostError(side, side.explain("; ".join(found.reasons)))


def answers(side: Contender, asked: Sequence[Context]) -> list[str]:
    """The next token of each context. LostError when one does not come."""
    assert side.endpoint is not None
    try:
        return accuracy.next_tokens(side.endpoint, asked)
    except RequestError as error:
        raise LostError(side, side.explain(error.happened)) from error


def gate(manifest: Mapping[str, Any]) -> str:
    """What the build's own quality gate said."""
    found = manifest.get("quality")
    return f"the build's quality gate: {found['decision']}" if found else "the build had no quality gate"


def words(figure: Figure) -> str:
    """A figure as a sentence."""
    assert figure.limit is not None and figure.low is not None and figure.high is not None
    if figure.incumbent is None or figure.change is None:
        sure = f"{figure.low:.2g} to {figure.high:.2g}"
        return f"{figure.metric} is {figure.candidate:.2g} {figure.unit} ({sure}), the limit is {figure.limit:.2g}"
    sure = f"{figure.change:+.2%}, {figure.low:+.2%} to {figure.high:+.2%}"
    values = f"{figure.candidate:.4g} instead of {figure.incumbent:.4g} {figure.unit}".rstrip()
    return f"{figure.metric} is {values} ({sure}), the limit is {figure.limit:+.2%}"
