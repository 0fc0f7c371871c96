"""Candidate against incumbent: quality first, for it is cheap, then speed."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import replace
from pathlib import Path

from builder import manifest as manifests
from builder.store import Store
from serving.nightly.ab import accuracy, place, quality, speed
from serving.nightly.ab.contender import LostError, Served
from serving.nightly.ab.contest import Comparison, contest, decide
from serving.nightly.ab.keeper import keeping
from serving.nightly.ab.load import Load
from serving.nightly.ab.quality import Checkpoints, Finding
from serving.nightly.ab.rounds import Rounds, Visit
from serving.nightly.ab.rule import Rule
from serving.nightly.record import Figure
from trtllm_kit.console import Talk
from trtllm_kit.errors import QualityError


def compare(
    candidate: Path,
    incumbent: Path | None,
    *,
    rule: Rule,
    store: Store,
    candidate_checkpoint: Path | None,
    incumbent_checkpoint: Path | None,
    work: Path,
    talk: Talk,
) -> Comparison:
    """Serve both artifacts on this machine, load them in turns, and decide.

    Args:
        incumbent: None where nothing is in service yet: the candidate is judged by itself.
        store: of this machine: comparisons in it wait for each other, or they would measure each other.
        candidate_checkpoint: the output of its `quantize` stage, where it is on this machine; the other likewise.
        work: a folder for servers, logs and hidden states; what is made in it is removed.

    HostError when this machine lacks what it takes, such as a tritonserver. What is wrong with a side is a decision.
    """
    # A name of its own: what a killed comparison left may still be being ended under another.
    servers = work / f"servers-{uuid.uuid4().hex[:8]}"
    # A first build is compared with nothing: it waits for nobody.
    alone = contextlib.nullcontext() if incumbent is None else store.lock("measure")
    with alone, keeping(servers):
        trial = _Trial(_served("candidate", candidate, servers, rule), rule, work, talk)
        try:
            if incumbent is None:
                return trial.alone()
            checkpoints = candidate_checkpoint, incumbent_checkpoint
            return trial.against(_served("incumbent", incumbent, servers, rule), checkpoints)
        except LostError as lost:
            fault = lost.side is trial.candidate
            return Comparison(decision="keep" if fault else rule.lost_incumbent, reasons=(lost.reason,))
        except QualityError as error:
            return Comparison(decision="keep", reasons=(error.happened,))


def _served(name: str, artifact: Path, scratch: Path, rule: Rule) -> Served:
    return Served(
        name=name,
        artifact=artifact,
        manifest=manifests.load(artifact),
        scratch=scratch,
        timeout_s=rule.start_timeout_s,
    )


class _Trial:
    """One candidate's. LostError when a side drops out, QualityError when its checkpoint computes no numbers."""

    def __init__(self, candidate: Served, rule: Rule, work: Path, talk: Talk) -> None:
        self.candidate = candidate
        self._rule, self._work, self._talk = rule, work, talk
        self._tokenizer_dir = candidate.artifact / "tokenizer"
        self._usd_per_hour = place.usd_per_hour(rule, candidate.manifest)
        self._load = Load.of(rule, candidate.artifact, candidate.manifest, scratch=candidate.scratch / "load")

    def alone(self) -> Comparison:
        """Its own gates, and a block of load for the figures."""
        candidate, load = self.candidate, self._load
        cold_start_s = candidate.start()
        quality.check_answers(candidate, candidate.manifest)
        block = load.run(candidate, load.take(load.requests_for(self._rule.block_s, load.round_s(candidate))))
        visit = Visit(cold_start_s=cold_start_s, blocks=(block,))
        reasons = ("the first build of its cell", quality.gate(candidate.manifest))
        return Comparison(decision="promote", reasons=reasons, figures=tuple(speed.alone(visit, self._usd_per_hour)))

    def against(self, incumbent: Served, checkpoints: Checkpoints) -> Comparison:
        """Quality, then speed. Where one says no, the next is not measured."""
        why_not = quality.why_no_text(self.candidate.artifact, incumbent.artifact)
        found = Finding(notes=(why_not,)) if why_not else self._by_checkpoint(incumbent, checkpoints)
        if decide(found.figures) == "keep":
            return _kept(found)
        answered, round_s = self._by_answers(incumbent, compared=why_not is None)
        found = replace(found, figures=(*found.figures, *answered))
        if decide(found.figures) == "keep":
            return _kept(found)
        fast = contest(self._rounds(incumbent, round_s), self._rule, self._usd_per_hour, self._talk)
        figures = (*found.figures, *fast.figures)
        unsure = [quality.words(figure) for figure in found.figures if figure.status == "open"]
        # What decided comes first.
        reasons = (*unsure, *fast.reasons) if fast.decision == "promote" else (*fast.reasons, *unsure)
        return Comparison(decision=decide(figures), reasons=(*reasons, *found.notes), figures=figures)

    def _by_checkpoint(self, incumbent: Served, checkpoints: Checkpoints) -> Finding:
        sides, work = (self.candidate, incumbent), self._work / "perplexity"
        return quality.by_checkpoint(sides, checkpoints, self._rule, work, self._talk)

    def _by_answers(self, incumbent: Served, *, compared: bool) -> tuple[list[Figure], float]:
        """What the servers' answers say, and seconds that the slower one takes for a round of requests."""
        asked = accuracy.contexts(self._tokenizer_dir, self._rule.contexts, self._rule.seed) if compared else []
        answers, rounds_s = [], []
        for side in (self.candidate, incumbent):
            self._talk.say(f"A/B: the {side.name} answers")
            side.start()
            quality.check_answers(side, side.manifest)
            answers.append(quality.answers(side, asked))
            rounds_s.append(self._load.round_s(side))
            side.stop()
        return accuracy.judge(asked, answers[0], answers[1], self._rule) if asked else [], max(rounds_s)

    def _rounds(self, incumbent: Served, round_s: float) -> Rounds:
        artifacts = self.candidate.artifact, incumbent.artifact
        return Rounds(
            candidate=self.candidate,
            incumbent=incumbent,
            load=self._load,
            requests=self._load.requests_for(self._rule.block_s, round_s),
            blocks=self._rule.blocks,
            at_once=place.both_at_once(self._rule, artifacts, self.candidate.manifest),
        )


def _kept(found: Finding) -> Comparison:
    reasons = tuple(quality.words(figure) for figure in found.figures if figure.status == "worse")
    return Comparison(decision="keep", reasons=reasons, figures=found.figures)
