"""One conversation's turn at a time into the air, and down again: at its end, its timeout, or its cancel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from serving.client.errors import RequestError, timed_out
from serving.client.links import link_of, open_pool
from serving.client.request import Endpoint
from serving.load.flight import Flight
from serving.load.workload import Conversation


class Sender:
    """`landed` hears of every flight once, when it is over. Belongs to the running event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout_s: float,
        keep_text: bool,
        landed: Callable[[Flight, Conversation], None],
    ) -> None:
        self.pool = open_pool(endpoint)
        self.in_air: dict[Flight, Conversation] = {}
        self.sent = 0
        self._endpoint = endpoint
        self._link = link_of(endpoint)
        self._model = endpoint.model or self._link.model
        self._timeout_s = timeout_s
        self._keep_text = keep_text
        self._tell = landed
        self._timers: dict[Flight, asyncio.TimerHandle] = {}
        self._link.reader()  # what it has to import is not to delay the first request

    def send(self, conversation: Conversation, due_ns: int | None, *, cancel_at: int | None) -> Flight:
        """Its next turn, due at `due_ns` or, without one, when it is sent; cancelled after `cancel_at` tokens."""
        request = conversation.next_request()
        content = self._link.content(self._endpoint, self._model, request)
        flight = Flight(
            request,
            self._link.reader(),
            self._landed,
            number=self.sent,
            keep_text=self._keep_text or conversation.goes_on,
        )
        flight.address = self.pool.address
        flight.cancel = partial(self._cancel, flight)
        if cancel_at is not None:
            flight.cancel_at = cancel_at
        self.sent += 1
        self.in_air[flight] = conversation
        self._timers[flight] = asyncio.get_running_loop().call_later(self._timeout_s, self._expire, flight)
        flight.sent_ns = time.perf_counter_ns()
        flight.scheduled_ns = flight.sent_ns if due_ns is None else due_ns
        flight.abort = self.pool.send(content, flight).close
        return flight

    def give_up(self, flight: Flight, error: RequestError | None = None) -> None:
        """Drop its connection; without an error it is unfinished, which is nobody's fault."""
        flight.abort()
        if error is None:
            flight.unfinished = True
        flight.finish(time.perf_counter_ns(), error)

    def close(self) -> None:
        """Give up what is in the air, and the connections."""
        for flight in list(self.in_air):
            self.give_up(flight)
        self.pool.close()

    def _landed(self, flight: Flight) -> None:
        self._timers.pop(flight).cancel()
        self._tell(flight, self.in_air.pop(flight))

    def _cancel(self, flight: Flight) -> None:
        """End a generation by its request id and read what is still sent, so that both sides count the same."""
        if self._link.stop is None:
            self.give_up(flight, RequestError("cancelled", "cancelled by the client", tokens=flight.tokens))
            return
        content = self._link.stop(self._endpoint, flight.request.request_id)
        self.pool.send(content, Flight(flight.request, self._link.reader(), _forget))
        flight.cancelled = True

    def _expire(self, flight: Flight) -> None:
        self.give_up(flight, timed_out(flight.address, self._timeout_s, flight.tokens))


def _forget(flight: Flight) -> None: ...
