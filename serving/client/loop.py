"""One event loop for the whole process, on a thread of its own.

grpc.aio keeps a process-wide poller that breaks when loops come and go, so code that is not asynchronous hands its
coroutines to this one.
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
