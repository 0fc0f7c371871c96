"""Cron's five fields, against systemd's own reading of what they become."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.nightly.install import Schedule
from trtllm_kit.errors import SpecError

WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def reads(minute: str, hour: str, day: str, month: str, weekday: str, at: datetime.datetime) -> bool:
    """Whether cron starts at `at`, for fields that are numbers, lists of numbers or *: cron(8), written anew."""

    def has(field: str, value: int) -> bool:
        return field == "*" or value in {int(part) for part in field.split(",")}

    on_date, on_weekday = has(day, at.day), has(weekday.replace("7", "0"), at.isoweekday() % 7)
    days = on_date or on_weekday if "*" not in (day, weekday) else on_date and on_weekday
    return has(minute, at.minute) and has(hour, at.hour) and has(month, at.month) and days


def happens(event: str, at: datetime.datetime) -> bool:
    """The same of a calendar event, systemd.time(7): all of its parts must fit."""
    found = re.fullmatch(r"(?:([A-Za-z,]+) )?\*-(\S+)-(\S+) (\S+):(\S+):00", event)
    assert found, event
    weekdays, month, day, hour, minute = found.groups()

    def has(field: str, value: int) -> bool:
        return field == "*" or value in {int(part) for part in field.split(",")}

    fits = has(month, at.month) and has(day, at.day) and has(hour, at.hour) and has(minute, at.minute)
    return fits and (weekdays is None or WEEKDAYS[at.isoweekday() % 7] in weekdays.split(","))


def field(low: int, high: int) -> st.SearchStrategy[str]:
    numbers = st.lists(st.integers(low, high), min_size=1, max_size=3, unique=True)
    return st.just("*") | numbers.map(lambda values: ",".join(map(str, values)))


@given(
    minute=field(0, 59),
    hour=field(0, 23),
    day=field(1, 28),
    month=field(1, 12),
    weekday=field(0, 7),
    at=st.datetimes(datetime.datetime(2026, 1, 1), datetime.datetime(2028, 12, 31)),
)
def test_systemd_starts_when_cron_would(
    minute: str, hour: str, day: str, month: str, weekday: str, at: datetime.datetime
) -> None:
    schedule = Schedule.parse(f"{minute} {hour} {day} {month} {weekday}")
    assert any(happens(event, at) for event in schedule.calendar_events) == reads(minute, hour, day, month, weekday, at)


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("0 2 * * *", ["*-*-* 02:00:00"]),
        ("*/20 1-3 * jan,jul MON-FRI", ["Mon,Tue,Wed,Thu,Fri *-01,07-* 01,02,03:00,20,40:00"]),
        ("30 4 1 * 7", ["*-*-01 04:30:00", "Sun *-*-* 04:30:00"]),  # cron: on the first, and on Sundays
        ("0  0-12/6 29 2 *", ["*-02-29 00,06,12:00:00"]),
    ],
)
def test_ranges_steps_and_names(text: str, events: list[str]) -> None:
    assert Schedule.parse(text).calendar_events == events


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("text", ["0 2 * * *", "*/7 1-3 1,15 jan,jul mon-fri", "59 23 31 12 0"])
def test_systemd_takes_every_event(text: str) -> None:
    for event in Schedule.parse(text).calendar_events:
        subprocess.run(["systemd-analyze", "calendar", event], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has 0 fields"),
        ("@daily", "it has 1 fields"),
        ("0 2 * *", "it has 4 fields"),
        ("60 2 * * *", "'60' is no minute, which goes from 0 to 59"),
        ("0 2 0 * *", "'0' is no day of the month"),
        ("0 2 * * sund", "'sund' is no day of the week"),
        ("0 5-2 * * *", "'5-2' is no hour"),
        ("0 */0 * * *", "'*/0' is no hour"),
        ("0 2/3 * * *", "a step needs a range"),
        ("0 2 30 2 *", "no such month has a day 30"),
        ("0 2 31 4,6 *", "no such month has a day 31"),
        ("0 2 1,, * *", "'' is no day of the month"),
    ],
)
def test_what_is_no_schedule_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        Schedule.parse(text)
