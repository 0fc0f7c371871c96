"""When a night begins: the five fields of cron, checked, and the same as systemd's calendar events."""

from __future__ import annotations

import calendar
from dataclasses import dataclass

from trtllm_kit.errors import SpecError

Values = tuple[int, ...] | None
"""Of a field; None: every one."""

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_MONTHS = tuple(name.lower() for name in calendar.month_abbr[1:])
_LEAP_YEAR = 2028


@dataclass(frozen=True)
class _Field:
    """One field of a cron line: its bounds, and names that stand for numbers."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # of low, low + 1, ...


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, tuple(name.lower() for name in _DAYS)),
)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Example: ``0 2 * * mon-fri``, two o'clock in the morning of working days."""

    text: str  # the five fields with one space between them
    minutes: Values
    hours: Values
    days: Values
    months: Values
    weekdays: Values  # 0 is Sunday

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """From cron's five fields; SpecError names the field that is wrong, or a day that never comes."""
        parts = text.lower().split()
        if len(parts) != len(_FIELDS):
            raise _refused(text, f"it has {len(parts)} fields")
        values = [_values(part, field, text) for part, field in zip(parts, _FIELDS, strict=True)]
        weekdays = values[4]
        if weekdays is not None:
            values[4] = tuple(sorted({day % 7 for day in weekdays}))
        minutes, hours, days, months, weekdays = values
        if days and not weekdays and min(days) > max(_length(month) for month in months or range(1, 13)):
            raise _refused(text, f"no such month has a day {min(days)}")
        return cls(text=" ".join(parts), minutes=minutes, hours=hours, days=days, months=months, weekdays=weekdays)

    @property
    def calendar_events(self) -> list[str]:
        """For `OnCalendar=`. Cron takes a day when either of its day fields does, systemd when both do: two events."""
        time = f"{_list(self.hours)}:{_list(self.minutes)}:00"
        by_date = f"*-{_list(self.months)}-{_list(self.days)} {time}"
        if self.weekdays is None:
            return [by_date]
        by_weekday = ",".join(_DAYS[day] for day in self.weekdays) + f" *-{_list(self.months)}-* {time}"
        return [by_weekday] if self.days is None else [by_date, by_weekday]


def _values(part: str, field: _Field, text: str) -> Values:
    if part == "*":
        return None
    found: set[int] = set()
    for item in part.split(","):
        span, slash, step = item.partition("/")
        low, dash, high = span.partition("-")
        if slash and not (dash or span == "*"):
            raise _refused(text, f"a step needs a range in the {field.name}: '{item}'")
        first, last = (field.low, field.high) if span == "*" else (_number(low, field, text), 0)
        if span != "*":
            last = _number(high, field, text) if dash else first
        every = int(step) if step.isdigit() else 0 if slash else 1
        if first > last or every < 1:
            raise _refused(text, f"'{item}' is no {field.name}")
        found.update(range(first, last + 1, every))
    return tuple(sorted(found))


def _number(word: str, field: _Field, text: str) -> int:
    if word in field.names:
        return field.low + field.names.index(word)
    if not word.isdigit() or not field.low <= int(word) <= field.high:
        raise _refused(text, f"'{word}' is no {field.name}, which goes from {field.low} to {field.high}")
    return int(word)


def _length(month: int) -> int:
    return calendar.monthrange(_LEAP_YEAR, month)[1]


def _list(values: Values) -> str:
    return "*" if values is None else ",".join(f"{value:02}" for value in values)


def _refused(text: str, why: str) -> SpecError:
    return SpecError(
        f"'{text}' is no schedule: {why}",
        expected="minute, hour, day of the month, month, day of the week, as cron writes them: '0 2 * * *'",
        fix="see docs/nightly_cron.md",
    )
