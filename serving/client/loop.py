"""One event loop for the whole process, on a thread of its own, for code that is not asynchronous.

Connections belong to the loop that they were made in, so a stream that is read piece by piece needs one that stays.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The coroutine's result; an interrupt of the caller cancels it first."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="trtllm-kit-client", daemon=True).start()
    return loop
