"""What a cell's night came to, as a person sees it: one row per outcome, told apart by symbol and word, not by colour
alone. Also the exit code of a night, which follows from the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serving.nightly.record import CellResult
from trtllm_kit.errors import BuildStepError, IntegrityError, PerformanceError, QualityError


@dataclass(frozen=True, kw_only=True)
class State:
    """A row of STATES. `css` is a class of the page's style."""

    name: str
    symbol: str
    css: str
    meaning: str
    exit_code: int = 0


_FAILED = BuildStepError.exit_code
_REJECTED = PerformanceError.exit_code

STATES = {
    state.name: state
    for state in (
        State(name="failed", symbol="✕", css="fail", meaning="a step failed; see its log", exit_code=_FAILED),
        State(name="timeout", symbol="◷", css="fail", meaning="a stage took longer than its limit", exit_code=_FAILED),
        State(name="no result", symbol="!", css="fail", meaning="it was killed or never started", exit_code=_FAILED),
        State(
            name="rejected",
            symbol="▼",
            css="warn",
            meaning="the new build is worse, or failed its quality gate; what was in service stays",
            exit_code=_REJECTED,
        ),
        State(name="undecided", symbol="≈", css="warn", meaning="measured, but not for long enough to tell"),
        State(name="lost", symbol="⇄", css="skipped", meaning="another night moved this cell in between"),
        State(name="not measured", symbol="○", css="new", meaning="built and kept; no such GPU here to measure it"),
        State(name="promoted", symbol="▲", css="pass", meaning="the new build is in service"),
        State(name="built", symbol="●", css="new", meaning="built, nothing decided"),
        State(name="impossible", symbol="–", css="skipped", meaning="refused before any work"),
        State(name="unchanged", symbol="·", css="skipped", meaning="no input changed; nothing was done"),
    )
}
"""By name, what needs a person first."""

_ORDER = {name: at for at, name in enumerate(STATES)}
_STATUS = {"skipped": "unchanged"}
_DECIDED = {
    "promote": "promoted",
    "keep": "rejected",
    "undecided": "undecided",
    "not_measured": "not measured",
    None: "built",
}


def state_of(result: CellResult | None) -> State:
    """The row of a result; None is a cell that was to be worked on and left no record.

    IntegrityError for an outcome that is not in the table: a newer kit wrote it.
    """
    if result is None:
        return STATES["no result"]
    if result.status == "failed" and result.exit_code == QualityError.exit_code:
        return STATES["rejected"]  # by the gate of its own build, before there was anything to compare
    name = _DECIDED.get(result.decision) if result.status == "built" else _STATUS.get(result.status, result.status)
    if name not in STATES:
        raise IntegrityError(
            f"{result.identifier} came to '{result.status}', '{result.decision}', which this kit does not know",
            expected="a record of this kit",
            fix="read it with the version that wrote it",
        )
    return STATES[name]


def urgency(state: State) -> int:
    """Sorts states by how much they need a person, most first."""
    return _ORDER[state.name]


def exit_code(states: Iterable[State]) -> int:
    """For the scheduler: 9 when cells failed, else 7 when a candidate was rejected, else 0."""
    return max((state.exit_code for state in states), default=0)
