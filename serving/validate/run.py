"""The public entry: run the checks that were asked for against one endpoint and report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from builder.plan import ValidationPlan
from serving.client.request import Endpoint
from serving.validate.greedy_parity import greedy_parity
from serving.validate.results import CheckResult, ValidationReport
from serving.validate.server_facts import ServerFacts, server_facts
from serving.validate.smoke import smoke
from serving.validate.throughput import throughput
from serving.validate.tokenizer_parity import tokenizer_parity
from serving.validate.verdict import limits_of, verdict
from trtllm_kit.console import Talk
from trtllm_kit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is known about the thing behind the endpoint; what is missing makes its check say so and be skipped."""

    tokenizer_dir: Path | None = None  # the artifact's tokenizer/ folder
    checkpoint: Path | None = None  # Hugging Face folder with the same, unquantized weights
    no_checkpoint_reason: str = "no unquantized checkpoint of the same weights is at hand"
    add_special_tokens: bool = True  # as the repository was rendered
    about: Mapping[str, Any] = field(default_factory=dict)  # for the report: identifier, digest, versions


@dataclass(frozen=True, kw_only=True)
class _Run:
    endpoint: Endpoint
    plan: ValidationPlan
    subject: Subject
    facts: ServerFacts
    talk: Talk


def validate(
    endpoint: Endpoint,
    plan: ValidationPlan,
    *,
    subject: Subject | None = None,
    checks: Sequence[str] = (),
    talk: Talk,
) -> ValidationReport:
    """Run `checks` (names of CHECKS; none given means all), in the table's order.

    Raises RequestError when nobody answers at all and UsageError for an unknown check; whatever a check finds is in
    the report, and `report.raise_for_failure()` turns it into an exit code.
    """
    unknown = [name for name in checks if name not in CHECKS]
    if unknown:
        raise UsageError(f"unknown check '{unknown[0]}'", expected=f"one of {', '.join(CHECKS)}")
    started, clock = time.time(), time.perf_counter()
    subject = subject or Subject()
    run = _Run(endpoint=endpoint, plan=plan, subject=subject, facts=server_facts(endpoint), talk=talk)
    results: list[CheckResult] = []
    for name, check in CHECKS.items():
        if name in (checks or CHECKS):
            talk.say(f"validate: {name}")
            results.append(check(run))
    return ValidationReport(
        endpoint={**asdict(endpoint), "server_version": run.facts.server_version, "models": list(run.facts.models)},
        started_unix_s=round(started, 3),
        duration_s=time.perf_counter() - clock,
        checks=tuple(results),
        verdict=verdict(results),
        limits=limits_of(plan),
        about=subject.about,
    )


def _smoke(run: _Run) -> CheckResult:
    return smoke(run.endpoint, decoupled=run.facts.decoupled)


def _tokenizer(run: _Run) -> CheckResult:
    if run.subject.tokenizer_dir is None:
        return _skipped("tokenizer_parity", "no tokenizer to compare with; give the artifact")
    return tokenizer_parity(run.endpoint, run.subject.tokenizer_dir, add_special_tokens=run.subject.add_special_tokens)


def _greedy(run: _Run) -> CheckResult:
    subject = run.subject
    if subject.checkpoint is None or subject.tokenizer_dir is None:
        return _skipped("greedy_parity", subject.no_checkpoint_reason)
    if not run.endpoint.transport.startswith("engine"):
        return _skipped("greedy_parity", "this layout takes no token ids")
    return greedy_parity(run.endpoint, subject.checkpoint, subject.tokenizer_dir)


def _throughput(run: _Run) -> CheckResult:
    return throughput(
        run.endpoint,
        run.plan,
        tokenizer_dir=run.subject.tokenizer_dir,
        decoupled=run.facts.decoupled,
        talk=run.talk,
    )


def _skipped(name: str, reason: str) -> CheckResult:
    return CheckResult(name=name, status="skipped", reasons=(reason,))


CHECKS: Mapping[str, Callable[[_Run], CheckResult]] = MappingProxyType(
    {
        "smoke": _smoke,
        "tokenizer_parity": _tokenizer,
        "greedy_parity": _greedy,
        "throughput": _throughput,
    }
)
