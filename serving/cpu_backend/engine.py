"""The engine behind one thread: requests join and leave a running batch between its steps.

`step()` of the library holds Python's lock for the whole step, so everything that touches the pipeline happens on the
stepping thread and callers only append to a queue. The thread sleeps without polling while nothing is in flight.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder.compile.openvino_ir.settings import TOKENS_PER_BLOCK, CpuEngineSettings
from serving.cpu_backend.flight import Flight, Listener
from serving.cpu_backend.pipeline import EngineOptions, narrowed, open_pipeline
from serving.cpu_backend.request import GenerationRequest, QueueFullError, RequestError, check_request
from serving.cpu_backend.stats import EngineStats

_STOP_TIMEOUT_S = 60.0


class Engine:
    """In-flight batching over a continuous batching pipeline. Use as a context manager, or call `close`."""

    def __init__(self, pipeline: Any, settings: CpuEngineSettings, *, max_queue_size: int = 0) -> None:
        self.settings = settings
        self._pipeline = pipeline
        self._max_queue_size = max_queue_size
        self._incoming: deque[Flight] = deque()
        self._live: list[Flight] = []
        self._free_blocks = settings.num_kv_blocks - 1  # not promised to anybody
        self._leaving_blocks = 0  # of requests that left early; the library frees them in the next step
        self._iteration = 0
        self._prune = False  # whether a waiting request may have been cancelled
        self._broken: str | None = None
        self._closing = False
        self._gate = threading.Lock()  # taken once per request: nothing may come in after the last look at the queue
        self._wake = threading.Event()
        self._hook: Callable[[], None] = lambda: None
        self._hook_period_s = float("inf")
        self._hook_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="engine-steps", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, folder: Path, options: EngineOptions | None = None) -> Engine:
        """Load the engine in `folder`; SpecError, IncompatibleError or HostError when that cannot be."""
        options = options or EngineOptions()
        settings = narrowed(CpuEngineSettings.read(folder), options)
        pipeline = open_pipeline(folder, settings, options.threads)
        return cls(pipeline, settings, max_queue_size=options.max_queue_size)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: GenerationRequest, listener: Listener) -> Flight:
        """Queue a request; `listener` is then called on the stepping thread, the last time with `finish` set.

        Raises RequestError, before anything is started, for a request that cannot be served.
        """
        check_request(request, self.settings)
        flight = Flight(request, listener)
        with self._gate:
            self._check_open()
            self._incoming.append(flight)
        self._wake.set()
        return flight

    def cancel(self, flight: Flight) -> None:
        """End a request early; its listener hears `Finish.CANCELLED`. Without effect on one that has ended."""
        flight.cancelled = True
        self._prune = True
        self._wake.set()

    def every(self, period_s: float, hook: Callable[[], None]) -> None:
        """Call `hook` on the stepping thread between steps, once a period while busy and once before sleeping."""
        self._hook, self._hook_period_s, self._hook_at = hook, period_s, time.monotonic()
        self._wake.set()

    def stats(self) -> EngineStats:
        """Numbers of this moment; exact on the stepping thread, a fair view from any other."""
        live = list(self._live)
        metrics = self._pipeline.get_metrics()
        scheduled = min(metrics.scheduled_requests, len(live))
        context = [flight for flight in live if not flight.has_started()][:scheduled]
        return EngineStats(
            iteration=self._iteration,
            active_requests=len(live) + len(self._incoming),
            scheduled_requests=scheduled,
            context_requests=len(context),
            context_tokens=sum(len(flight.request.input_ids) for flight in context),
            max_requests=self.settings.max_batch_size,
            max_blocks=self.settings.num_kv_blocks,
            used_blocks=round(metrics.cache_usage / 100 * self.settings.num_kv_blocks),
            tokens_per_block=TOKENS_PER_BLOCK,
        )

    def close(self) -> None:
        """Cancel everything in flight and stop the thread. Idempotent."""
        self._closing = True
        self._wake.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def _check_open(self) -> None:
        if self._closing or self._broken is not None:
            raise RequestError(
                f"the engine is {self._broken or 'closing'}", expected="a running engine", fix="restart the server"
            )
        waiting = len(self._live) + len(self._incoming) - self.settings.max_batch_size
        if self._max_queue_size and waiting >= self._max_queue_size:
            raise QueueFullError(
                f"Exceeds maximum queue size: {waiting} requests wait",
                expected=f"at most {self._max_queue_size} waiting requests",
                fix="try again later, or raise serving.max_queue_size",
            )

    def _run(self) -> None:
        while not self._closing:
            self._admit()
            if self._live or self._pipeline.has_non_finished_requests():
                self._step()
            else:
                self._sleep()
            if time.monotonic() >= self._hook_at:
                self._call_hook()
        self._abandon()

    def _admit(self) -> None:
        """Let waiting requests join, first come first served, while the longest they can get still fits.

        The library keeps to no batch size, and when nothing fits it drops requests that did no harm. So a request joins
        only when all its blocks are free: upstream's `guaranteed_no_evict`.
        """
        if self._prune:
            self._prune = False
            self._drop_cancelled()
        while self._incoming and len(self._live) < self.settings.max_batch_size:
            if self._incoming[0].blocks > self._free_blocks:
                break
            flight = self._incoming.popleft()
            try:
                flight.join(self._pipeline)
            except RuntimeError as error:  # the library's only exception
                flight.abandon(f"the engine refused the request: {error}")
            else:
                self._free_blocks -= flight.blocks
                self._live.append(flight)

    def _drop_cancelled(self) -> None:
        with self._gate:
            cancelled = [flight for flight in self._incoming if flight.cancelled]
            self._incoming = deque(flight for flight in self._incoming if not flight.cancelled)
        for flight in cancelled:
            flight.abandon()

    def _step(self) -> None:
        try:
            self._pipeline.step()
            self._iteration += 1
        except RuntimeError as error:
            self._fail_all(error)
            return
        self._free_blocks += self._leaving_blocks
        self._leaving_blocks = 0
        if self._advance_all():
            self._live = [flight for flight in self._live if not flight.ended]

    def _advance_all(self) -> bool:
        """Whether any request ended."""
        any_ended = False
        for flight in self._live:
            if flight.advance():
                any_ended = True
                if flight.left_early:
                    self._leaving_blocks += flight.blocks
                else:
                    self._free_blocks += flight.blocks
        return any_ended

    def _fail_all(self, error: RuntimeError) -> None:
        """A failed step leaves the pipeline in doubt: nobody may hang, and nobody else may come in."""
        self._broken = f"broken by a failed step: {error}"
        self._closing = True

    def _abandon(self) -> None:
        """End all that is in flight and let the pipeline free what it held; it complains at exit otherwise."""
        with self._gate:
            self._closing = True
            flights = [*self._live, *self._incoming]
            self._live = []
            self._incoming.clear()
        for flight in flights:
            flight.abandon(self._broken)
        with contextlib.suppress(RuntimeError):
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()

    def _sleep(self) -> None:
        self._wake.clear()
        if self._incoming or self._closing:
            return
        self._call_hook()
        self._wake.wait()

    def _call_hook(self) -> None:
        self._hook_at = time.monotonic() + self._hook_period_s
        self._hook()
