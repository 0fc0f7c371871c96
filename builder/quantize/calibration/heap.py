"""glibc keeps what is freed. Without these two calls a run over many layers takes twice the memory that it needs.

Where the C library is another, they do nothing.
"""

from __future__ import annotations

import ctypes
from typing import Any

_M_ARENA_MAX = -8  # of malloc.h


def share_one_heap() -> None:
    """One heap for all threads, so that what one of them freed serves the others."""
    _call("mallopt", _M_ARENA_MAX, 1)


def give_back() -> None:
    """Return free pages to the kernel: small things that live long lie between the tensors of each layer, so that the
    next layer's do not fit there."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
