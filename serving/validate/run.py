"""The public entry: run the checks that were asked for against one endpoint and report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from serving.client.links import link_of
from serving.client.request import Endpoint
from serving.validate.baseline import against_baseline
from serving.validate.bill import bill
from serving.validate.expectation import expectation
from serving.validate.greedy_parity import greedy_parity
from serving.validate.levels import Level
from serving.validate.load import Load
from serving.validate.physics import physics, round_trip_ms
from serving.validate.results import CheckResult, ValidationReport
from serving.validate.saturation import Search
from serving.validate.server_facts import ServerFacts, server_facts
from serving.validate.sides import side_of
from serving.validate.smoke import smoke
from serving.validate.throughput import throughput
from serving.validate.tokenizer_parity import tokenizer_parity
from serving.validate.verdict import limits_of, verdict
from trtllm_kit.console import Talk
from trtllm_kit.errors import UsageError

if TYPE_CHECKING:
    from profiles.cost import Worked
    from profiles.performance import Setup


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is known about the thing behind the endpoint; what is missing makes its check say so and be skipped."""

    tokenizer_dir: Path | None = None  # the artifact's tokenizer/ folder
    checkpoint: Path | None = None  # Hugging Face folder with the same, unquantized weights
    no_checkpoint_reason: str = "no unquantized checkpoint of the same weights is at hand"
    add_special_tokens: bool = True  # as the repository was rendered
    about: Mapping[str, Any] = field(default_factory=dict)  # for the report: identifier, digest, versions
    setup: Setup | None = None  # the replica, for prediction and roofline
    no_setup_reason: str = "the SKU, model and precision are not known"
    usd_per_hour: Worked | None = None  # of the whole replica
    no_price_reason: str = "the SKU is not known"
    baseline: Path | None = None  # where one would lie


@dataclass(frozen=True, kw_only=True)
class _Run:
    endpoint: Endpoint
    load: Load
    search: Search | None
    subject: Subject
    facts: ServerFacts
    results: Path
    talk: Talk
    rtt_ms: float | None
    levels: list[Level] = field(default_factory=list)


def validate(
    endpoint: Endpoint,
    load: Load,
    *,
    results: Path,
    subject: Subject | None = None,
    checks: Sequence[str] = (),
    search: Search | None = None,
    talk: Talk,
) -> ValidationReport:
    """Run `checks` (names of CHECKS; none given means all), in the table's order; records lie below `results`.

    Raises RequestError when nobody answers at all and UsageError for an unknown check; whatever a check finds is in
    the report, and `report.raise_for_failure()` turns it into an exit code. An interrupt ends it with what was found.
    """
    unknown = [name for name in checks if name not in CHECKS]
    if unknown:
        raise UsageError(f"unknown check '{unknown[0]}'", expected=f"one of {', '.join(CHECKS)}")
    started, clock = time.time(), time.perf_counter()
    subject = subject or Subject()
    run = _Run(
        endpoint=endpoint,
        load=load,
        search=search,
        subject=subject,
        facts=server_facts(endpoint),
        results=results,
        talk=talk,
        rtt_ms=round_trip_ms(link_of(endpoint).address(endpoint)),
    )
    found, interrupted = _check_all(run, [name for name in CHECKS if name in (checks or CHECKS)])
    return ValidationReport(
        endpoint={
            **{name: value for name, value in asdict(endpoint).items() if endpoint.tls or name != "trust"},
            "server_version": run.facts.server_version,
            "models": list(run.facts.models),
        },
        started_unix_s=round(started, 3),
        duration_s=time.perf_counter() - clock,
        checks=tuple(found),
        verdict=verdict(found),
        limits=limits_of(load.plan),
        about=subject.about,
        bill=bill(run.levels, subject.usd_per_hour, subject.no_price_reason) if run.levels else {},
        interrupted=interrupted,
    )


def _check_all(run: _Run, names: Sequence[str]) -> tuple[list[CheckResult], bool]:
    """The results so far, and whether an interrupt came before the last of them."""
    found: list[CheckResult] = []
    try:
        for name in names:
            run.talk.say(f"validate: {name}")
            found.append(CHECKS[name](run))
    except KeyboardInterrupt:
        return [*found, _skipped(name, "interrupted")], True
    interrupted = any(check.data.get("interrupted") for check in found)
    return [*found, *_judgements(run)], interrupted


def _judgements(run: _Run) -> list[CheckResult]:
    """What follows from the levels: can it be true, and is it what was to be expected."""
    if not run.levels:
        return []
    subject = run.subject
    tries = (run.rtt_ms, round_trip_ms(link_of(run.endpoint).address(run.endpoint)))
    seen = physics(
        run.levels,
        rtt_ms=min((rtt_ms for rtt_ms in tries if rtt_ms is not None), default=None),
        setup=subject.setup,
        why_no_setup=subject.no_setup_reason,
        fresh_prompts=run.load.fresh_prompts,
    )
    measured = side_of([level.to_json() for level in run.levels], run.results, name="this run")
    compared = against_baseline(subject.baseline, measured) if subject.baseline is not None else None
    expected = expectation(run.levels, setup=subject.setup, why_no_setup=subject.no_setup_reason, baseline=compared)
    return [seen, expected]


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
    found, levels = throughput(
        run.endpoint,
        run.load,
        tokenizer_dir=run.subject.tokenizer_dir,
        results=run.results,
        search=run.search,
        stream=run.facts.decoupled,
        talk=run.talk,
    )
    run.levels.extend(levels)
    return found


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
