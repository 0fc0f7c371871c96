"""What a validation finds, as plain frozen values that turn into JSON and back into an exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trtllm_kit.errors import KitError, PerformanceError, QualityError, RolloutError

Status = Literal["pass", "warn", "fail", "skipped"]
RANK: Mapping[Status, int] = {"skipped": 0, "pass": 1, "warn": 2, "fail": 3}


def worst(statuses: Sequence[Status]) -> Status:
    """The worst of them; nothing at all is a pass."""
    return max(statuses, key=RANK.__getitem__, default="pass")


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One check. `reasons` says why it is not a pass, one line each; `data` holds what was measured."""

    name: str
    status: Status
    reasons: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The worst of all checks, with every reason."""

    status: Status
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """All of one validation. Times are wall-clock seconds since 1970."""

    endpoint: Mapping[str, Any]
    started_unix_s: float
    duration_s: float
    checks: tuple[CheckResult, ...]
    verdict: Verdict
    limits: Mapping[str, float]  # those that were set
    about: Mapping[str, Any] = field(default_factory=dict)  # identifier, digest, versions: whatever the caller knows
    bill: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for json.dumps."""
        return asdict(self)

    def check(self, name: str) -> CheckResult | None:
        """The named check, if it was asked for."""
        return next((check for check in self.checks if check.name == name), None)

    def raise_for_failure(self) -> None:
        """Raise the error of the first failed check, so that the command ends with its exit code."""
        for check in self.checks:
            if check.status == "fail":
                kind, expected, fix = _FAILURES[check.name]
                raise kind(f"{check.name} failed: " + "; ".join(check.reasons), expected=expected, fix=fix)


_FAILURES: Mapping[str, tuple[type[KitError], str, str]] = {
    "smoke": (
        RolloutError,
        "a plain and a streamed completion that agree",
        "see the server's log with `trtllm-kit deploy logs`",
    ),
    "tokenizer_parity": (
        QualityError,
        "the token ids of Hugging Face's tokenizer",
        "check serving.add_special_tokens and the artifact's tokenizer folder",
    ),
    "greedy_parity": (
        QualityError,
        "the greedy tokens of transformers on the same weights",
        "compare with an unquantized build; report the first difference shown",
    ),
    "throughput": (
        PerformanceError,
        "every request answered in full, within the limits of `validation:`",
        "read the reasons in the report; lower the load or the limits only if they are wrong",
    ),
    "physics": (
        PerformanceError,
        "figures that the hardware and the network allow",
        "do not use these figures: look at how the server counts, and at whether it serves the model that was meant",
    ),
    "expectation": (
        PerformanceError,
        "the speed that this SKU is predicted to have, or had before",
        "look at the GPU's clocks and neighbours, at the build flags, and at what `validate compare` says",
    ),
}
