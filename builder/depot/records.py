"""What the depot remembers of a cell: which build is in service, which may follow it, which came before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from trtllm_kit.errors import IntegrityError, SpecError
from trtllm_kit.identifier import BuildIdentifier

RefName = Literal["candidate", "current", "previous"]
REF_NAMES: tuple[RefName, ...] = get_args(RefName)

Decision = Literal["promote", "keep", "undecided", "not_measured"]


@dataclass(frozen=True, order=True)
class CellName:
    """Where a cell's refs lie: `<model>/<precision>/<sku>/tp<T>pp<P>-<runtime>`, the identifier in another order."""

    model: str
    precision: str
    sku: str
    layout: str

    def __str__(self) -> str:
        return f"{self.model}/{self.precision}/{self.sku}/{self.layout}"

    @classmethod
    def of(cls, identifier: BuildIdentifier) -> CellName:
        layout = f"tp{identifier.tp}pp{identifier.pp}-{identifier.runtime}"
        return cls(identifier.model, identifier.precision, identifier.sku, layout)

    @classmethod
    def parse(cls, text: str) -> CellName:
        """Inverse of `str`; SpecError with the expected form."""
        parts = text.split("/")
        if len(parts) != 4:
            raise SpecError(
                f"'{text}' is no cell",
                expected="<model>/<precision>/<sku>/tp<T>pp<P>-<runtime>, as `artifact refs` lists",
            )
        BuildIdentifier.parse("-".join(parts))
        return cls(*parts)

    @property
    def identifier(self) -> BuildIdentifier:
        return BuildIdentifier.parse(f"{self.model}-{self.precision}-{self.sku}-{self.layout}")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What comparing a candidate with the build in service gave."""

    decision: Decision
    against: str | None  # digest of the incumbent; None: there was none
    reasons: tuple[str, ...]
    night: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A build in the depot."""

    digest: str  # of the artifact
    upload: str  # which upload of these bytes: `artifacts/<digest>/<upload>/`
    key: str  # of its package stage: the same key, nothing to build
    inputs: Mapping[str, Mapping[str, Any]]  # of every stage, so that a later night can say what changed
    night: str  # that built it
    verdict: Verdict | None = None  # of its last comparison


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """All refs of a cell, moved together: a promotion is one step, seen whole or not at all."""

    candidate: Entry | None = None
    current: Entry | None = None
    previous: Entry | None = None
    words: str = "never built"  # why it last moved
    night: str | None = None  # that moved it
    at_unix_s: float = 0.0

    def entries(self) -> dict[RefName, Entry]:
        """The refs that point somewhere."""
        found: dict[RefName, Entry | None] = {
            "candidate": self.candidate,
            "current": self.current,
            "previous": self.previous,
        }
        return {name: entry for name, entry in found.items() if entry is not None}

    def built(self, entry: Entry, *, at_unix_s: float) -> CellRecord:
        """A new candidate; one that was there and was never promoted gives way."""
        words = f"{entry.digest[:12]} built"
        return replace(self, candidate=entry, words=words, night=entry.night, at_unix_s=at_unix_s)

    def judged(self, verdict: Verdict, *, at_unix_s: float) -> CellRecord:
        """The candidate promoted, or kept as a candidate with the reason."""
        if self.candidate is None:
            raise IntegrityError("a verdict without a candidate", expected="a cell whose candidate was just measured")
        judged = replace(self.candidate, verdict=verdict)
        words = f"{verdict.decision}: " + "; ".join(verdict.reasons)
        moved = replace(self, words=words, night=verdict.night, at_unix_s=at_unix_s)
        if verdict.decision != "promote":
            return replace(moved, candidate=judged)
        return replace(moved, candidate=None, current=judged, previous=self.current)

    def rolled_back(self, *, night: str, at_unix_s: float) -> CellRecord:
        """The previous build in service again; what was in service becomes the previous one."""
        if self.previous is None:
            raise SpecError("there is no previous build to go back to", expected="a cell that was promoted before")
        words = f"rolled back to {self.previous.digest[:12]}"
        return replace(
            self, current=self.previous, previous=self.current, words=words, night=night, at_unix_s=at_unix_s
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> CellRecord:
        """Inverse of `to_json`; IntegrityError when it is no such record."""
        try:
            refs: dict[str, Any] = {name: _entry(tree[name]) for name in REF_NAMES}
            return cls(**{**tree, **refs})
        except (KeyError, TypeError) as error:
            raise IntegrityError(
                f"a ref in the depot cannot be read: {error}", expected="a record of this kit"
            ) from None


def _entry(tree: Mapping[str, Any] | None) -> Entry | None:
    if tree is None:
        return None
    verdict = tree["verdict"]
    kept = Verdict(**{**verdict, "reasons": tuple(verdict["reasons"])}) if verdict else None
    return Entry(**{**tree, "verdict": kept})
