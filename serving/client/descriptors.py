"""Room for as many connections as the system lets this process have."""

from __future__ import annotations

import resource

_SPARE = 64


def allow_many() -> int:
    """Raise the soft limit of open files to the hard one; how many connections that leaves room for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - _SPARE
