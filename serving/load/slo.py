"""Service level objectives as people write them: ttft:500ms,tpot:50ms,e2e:10s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from serving.load.records import Record
from trtllm_kit.errors import UsageError

EXPECTED = "e.g. ttft:500ms,tpot:50ms,e2e:10s"
_UNITS_NS = {"ms": 1e6, "s": 1e9, "us": 1e3}
_VALUES: Mapping[str, Callable[[Record], float | None]] = MappingProxyType(
    {"ttft": lambda record: record.ttft_ns, "tpot": lambda record: record.tpot_ns, "e2e": lambda record: record.e2e_ns}
)


@dataclass(frozen=True, kw_only=True)
class Slo:
    """Limits in nanoseconds by name; a request is good when it meets all of them and had no error."""

    limits_ns: Mapping[str, float]

    def met_by(self, record: Record) -> bool:
        """An answer of a single token has no TPOT and meets any limit of it."""
        if record.error is not None or record.first_ns is None:
            return False
        values = ((_VALUES[name](record), limit) for name, limit in self.limits_ns.items())
        return all(value is None or value <= limit for value, limit in values)


def parse_slo(text: str) -> Slo:
    """UsageError for an unknown name, a missing or a wrong unit."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, given = part.strip().partition(":")
        unit = given.lstrip("0123456789.")
        number = given.removesuffix(unit) if unit else given
        if name not in _VALUES:
            raise UsageError(f"unknown objective '{name}'", expected=f"{', '.join(_VALUES)}; {EXPECTED}")
        if not number:
            raise UsageError(f"'{part.strip()}' has no number", expected=EXPECTED)
        if unit not in _UNITS_NS:
            raise UsageError(f"'{part.strip()}' has no unit of time", expected=f"{', '.join(_UNITS_NS)}; {EXPECTED}")
        try:
            limits[name] = float(number) * _UNITS_NS[unit]
        except ValueError:
            raise UsageError(f"'{part.strip()}' has no number", expected=EXPECTED) from None
    return Slo(limits_ns=limits)
