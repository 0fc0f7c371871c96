"""What was not the same in two nights: models' commits, image digests, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serving.nightly.record import NightRecord
from serving.nightly.report.nights import Night


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that differs; None: it was not there, or could not be asked."""

    what: str
    before: str | None
    now: str | None

    def __str__(self) -> str:
        return f"{self.what} {short(self.before)} → {short(self.now)}"


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[Difference]:
    """What differs, by name. What only one side knows is no change: it may be that upstream could not be asked."""
    return [
        Difference(what=what, before=before[what], now=now[what])
        for what in sorted(before.keys() & now.keys())
        if before[what] != now[what]
    ]


def upstream_changes(night: Night, earlier: Iterable[Night]) -> list[Difference]:
    """What a night found changed, each against the last of the earlier nights (oldest first) that knew it."""
    return differences(last_known(one.record for one in earlier), last_known([night.record]))


def last_known(records: Iterable[NightRecord]) -> dict[str, str]:
    """All that nights (oldest first) wrote down about the world around their cells, each as it was found last."""
    return {what: value for record in records for what, value in {**record.versions, **record.upstream}.items()}


def short(value: str | None) -> str:
    """A commit or digest cut to what a person compares; other words whole."""
    if value is None:
        return "nothing"
    scheme, colon, digits = value.rpartition(":")
    long = len(digits) >= 40 and all(digit in "0123456789abcdef" for digit in digits)
    return f"{scheme}{colon}{digits[:12]}" if long else value
