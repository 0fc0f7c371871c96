"""Times in names that sort by them: ``20261121T020000Z``."""

from __future__ import annotations

import calendar
import time

_FORM = "%Y%m%dT%H%M%SZ"


def stamp(unix_s: float | None = None) -> str:
    """Of a time, or of now."""
    return time.strftime(_FORM, time.gmtime(unix_s))


def stamped_unix_s(name: str) -> float | None:
    """When a name such as ``20261121T020000Z-3f9a`` was made; None for a name of another form."""
    try:
        return float(calendar.timegm(time.strptime(name.partition("-")[0], _FORM)))
    except ValueError:
        return None
