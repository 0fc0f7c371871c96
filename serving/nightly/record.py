"""What a night leaves behind: one record for the night, and one for each cell. Reports and history read only these.

In the depot, below `nights/<night>/`: `night.json`, `cells/<identifier>.json`, `logs/<identifier>.log`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from builder.depot.records import Decision
from trtllm_kit.errors import IntegrityError
from trtllm_kit.stamps import stamp

Status = Literal["skipped", "built", "impossible", "failed", "timeout", "lost"]
"""built: the build was done or was there already, and `decision` says what became of it. lost: another night moved the
cell's refs in between. impossible: refused before any work. timeout: a stage took longer than its limit."""

Action = Literal["build", "measure", "skip", "impossible"]
"""What a plan says of a cell. measure: the candidate is there and is still to be compared."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured metric of a comparison. `change` is candidate over incumbent minus 1, its interval 95 %."""

    metric: str  # ttft_ms, tpot_ms, output_tokens_per_s, usd_per_million_tokens, cold_start_s, perplexity, accuracy
    unit: str
    candidate: float
    incumbent: float | None = None  # None: nothing is in service yet
    change: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None  # largest change for the worse that the rule allows
    status: Literal["good", "worse", "open", "shown"] = "shown"  # shown: no limit is set on it


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """What a stage did and how long it took."""

    name: str
    action: Literal["run", "skip"]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What became of one cell in one night."""

    identifier: str
    status: Status
    words: str  # one line for a person
    decision: Decision | None = None
    exit_code: int = 0  # of trtllm_kit.errors
    stage: str | None = None  # where it failed or ran out of time
    changes: tuple[str, ...] = ()  # `stage.input: old → new`, why it was built
    stages: tuple[StageTime, ...] = ()
    seconds: float = 0.0
    started_unix_s: float = 0.0
    artifact: str | None = None  # digest of the candidate
    current: str | None = None  # digest that is in service at the end
    size_bytes: int | None = None
    reasons: tuple[str, ...] = ()  # of the decision
    figures: tuple[Figure, ...] = ()
    node: str = ""
    attempts: int = 1
    log: str | None = None  # in the depot

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> CellResult:
        """Inverse of `to_json`; IntegrityError when it is no such record."""
        try:
            return cls(
                **{
                    **tree,
                    "changes": tuple(tree["changes"]),
                    "reasons": tuple(tree["reasons"]),
                    "stages": tuple(StageTime(**row) for row in tree["stages"]),
                    "figures": tuple(Figure(**row) for row in tree["figures"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"a cell's record cannot be read: {error}", expected="a record of this kit") from None


@dataclass(frozen=True, kw_only=True)
class NightRecord:
    """What a night set out to do, and how it ended."""

    night: str
    started_unix_s: float
    ended_unix_s: float | None = None  # None: it is at work, or was killed
    exit_code: int | None = None
    executor: str = "local"
    matrix: str = ""  # fingerprint of nightly.yaml
    cells: Mapping[str, Action] = field(default_factory=dict)  # by identifier
    upstream: Mapping[str, str] = field(
        default_factory=dict
    )  # "model org/name@main": commit; "image ...": digest; "trtllm": version
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> NightRecord:
        """Inverse of `to_json`; IntegrityError when it is no such record."""
        try:
            return cls(**tree)
        except TypeError as error:
            raise IntegrityError(f"a night's record cannot be read: {error}", expected="a record of this kit") from None


def new_night(now_unix_s: float | None = None) -> str:
    """A night's name; names sort by time. Example: ``20261121T020000Z-3f9a``."""
    return f"{stamp(now_unix_s)}-{secrets.token_hex(2)}"
