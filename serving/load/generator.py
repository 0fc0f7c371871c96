"""Sends sessions as their arrivals say, follows each request to its end, and hands every record on at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from serving.client.descriptors import allow_many
from serving.client.request import Endpoint, Request
from serving.load.arrivals import Arrivals, ClosedLoop
from serving.load.client_meter import ClientMeter, ClientUse
from serving.load.flight import Flight
from serving.load.landing import record_of
from serving.load.records import Record
from serving.load.rest import Rest
from serving.load.sender import Sender
from serving.load.slices import Slices
from serving.load.until import Until
from serving.load.workload import Conversation, Session, Workload
from trtllm_kit.errors import UsageError

_LOOK_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What holds for every request of a run."""

    template: Request  # sampling and stop conditions; prompt, length and id are filled in
    timeout_s: float = 300.0
    grace_s: float = 60.0  # for what is in the air when the last request was sent
    cancel_share: float = 0.0  # of requests, cancelled on the way
    cancel_after: int = 8  # tokens
    give_up_after: int | None = 50  # requests in a row that reached no server end the run
    retokenize: Callable[[str], int] | None = None  # count tokens of the text instead of the server's
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Flown:
    """How a run ended."""

    reason: str  # a key of serving.load.until.REASONS
    origin_ns: int  # time.perf_counter_ns() that the records count from
    first_send_s: float  # from the call to the first request sent
    client: ClientUse


class Generator:
    """One run. `on_record` hears each record once; `slices` may be looked at meanwhile."""

    def __init__(
        self,
        endpoint: Endpoint,
        workload: Workload,
        arrivals: Arrivals,
        until: Until,
        conditions: Conditions,
        *,
        on_record: Callable[[Record], None],
    ) -> None:
        self.slices = Slices()
        self.origin_ns = time.perf_counter_ns()  # until the run begins
        self._endpoint = endpoint
        self._sessions: Iterator[Session] = workload.sessions()
        self._arrivals = arrivals
        self._closed = isinstance(arrivals, ClosedLoop)
        self._until = until
        self._conditions = conditions
        self._on_record = on_record
        self._draw = random.Random(f"{conditions.seed}/cancel")
        self._begun = 0
        self._waiting = 0  # conversations between two turns
        self._reason = ""
        self._unreached = 0
        self._failure: BaseException | None = None
        self._sender: Sender
        self._meter: ClientMeter
        self._rest: Rest
        self._drained: asyncio.Event
        self._stopping: asyncio.Event

    async def run(self) -> Flown:
        """Send until it is enough, wait for what is in the air, and tell how it went."""
        called = time.perf_counter()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._broken)
        self._drained, self._stopping = asyncio.Event(), asyncio.Event()
        conditions = self._conditions
        self._sender = sender = Sender(
            self._endpoint,
            timeout_s=conditions.timeout_s,
            keep_text=conditions.retokenize is not None,
            landed=self._landed,
        )
        self._meter, self._rest = ClientMeter(sender.pool.clock), Rest(sender.pool)
        await self._prepare()
        self.origin_ns = time.perf_counter_ns()
        self._meter.start()
        first_send_s = time.perf_counter() - called
        tasks = [loop.create_task(self._watch()), loop.create_task(self._guarded_start())]
        try:
            await self._stopping.wait()
            if self._reason not in ("interrupted", "unreachable") and (sender.in_air or self._waiting):
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(self._drained.wait(), conditions.grace_s)
        finally:
            for task in tasks:
                task.cancel()
            sender.close()
            use = self._meter.stop(open_loop=not self._closed)
        if self._failure is not None:
            raise self._failure
        return Flown(reason=self._reason, origin_ns=self.origin_ns, first_send_s=first_send_s, client=use)

    def stop(self, reason: str) -> None:
        """Send nothing more. "interrupted" also gives up what is in the air."""
        if not self._reason or reason == "interrupted":
            self._reason = reason
            self._stopping.set()
            if reason == "interrupted":
                self._drained.set()

    @property
    def traffic(self) -> tuple[int, int]:
        """Requests sent so far, and those of them in the air."""
        return self._sender.sent, len(self._sender.in_air)

    async def _prepare(self) -> None:
        self._make_next()
        self._room = allow_many()
        if isinstance(self._arrivals, ClosedLoop):
            concurrency = self._arrivals.concurrency
            _check_room(concurrency, self._room)
            await self._sender.pool.warm(min(concurrency, self._until.requests or concurrency))

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback, such as a prompt that cannot be sent or a full disk, ends the run with it."""
        self._failure = self._failure or context.get("exception") or RuntimeError(context["message"])
        self.stop("interrupted")

    async def _guarded_start(self) -> None:
        try:
            await self._start()
        except Exception as error:
            self._failure = error
            self.stop("interrupted")

    async def _start(self) -> None:
        if isinstance(self._arrivals, ClosedLoop):
            for _ in range(self._arrivals.concurrency):
                self._begin(time.perf_counter_ns())
            return
        for at_s in self._arrivals.times_s():
            due_ns = self.origin_ns + int(at_s * 1e9)
            while (wait_ns := due_ns - time.perf_counter_ns()) > 0:
                await asyncio.sleep(wait_ns / 1e9)
            while len(self._sender.in_air) >= self._room and not self._reason:
                await asyncio.sleep(_LOOK_S)
            if self._reason:
                return
            self._begin(due_ns)
        self.stop("exhausted")

    async def _watch(self) -> None:
        """The ends that no record brings about."""
        until = self._until
        while not self._reason:
            await asyncio.sleep(_LOOK_S)
            now_ns = time.perf_counter_ns() - self.origin_ns
            if self._closed:
                self._rest.aged(now_ns)
            if until.duration_s is not None and now_ns >= until.duration_s * 1e9:
                self.stop("time")
            elif until.narrow_enough(self.slices, now_ns):
                self.stop("precise")

    def _begin(self, due_ns: int) -> None:
        if self._reason:
            return
        session = self._next
        if session is None:
            self.stop("exhausted")
            return
        conversation = Conversation(number=self._begun, session=session, template=self._conditions.template)
        self._begun += 1
        self._send(conversation, due_ns)
        self._make_next()
        if self._until.requests is not None and self._begun >= self._until.requests:
            self.stop("requests")

    def _make_next(self) -> None:
        """Ahead of its time, so that making it delays nobody."""
        self._next = next(self._sessions, None)

    def _send(self, conversation: Conversation, due_ns: int) -> None:
        conditions = self._conditions
        cancelled = conditions.cancel_share and self._draw.random() < conditions.cancel_share
        flight = self._sender.send(
            conversation,
            None if self._closed else due_ns,
            cancel_at=conditions.cancel_after if cancelled else None,
        )
        self._meter.sent(flight.sent_ns - flight.scheduled_ns)

    def _landed(self, flight: Flight, conversation: Conversation) -> None:
        record = record_of(flight, conversation, origin_ns=self.origin_ns, retokenize=self._conditions.retokenize)
        self.slices.add(record)
        self._on_record(record)
        if self._closed:
            self._rest.ended(record)
        self._unreached = self._unreached + 1 if record.error == "unreachable" else 0
        if self._unreached == self._conditions.give_up_after:
            self.stop("unreachable")
        delay_s = conversation.next_delay_s if record.error is None else None
        loop = asyncio.get_running_loop()
        if delay_s is not None:
            conversation.answered("".join(flight.text))
            self._waiting += 1
            due_ns = flight.ended_ns + int(delay_s * 1e9)
            wait_s = max(due_ns - time.perf_counter_ns(), 0) / 1e9
            loop.call_later(wait_s, self._next_turn, conversation, due_ns)
        elif self._closed:
            # In the loop's next turn: a server that is gone must not make this a recursion.
            loop.call_soon(self._begin, flight.ended_ns)
        self._check_drained()

    def _next_turn(self, conversation: Conversation, due_ns: int) -> None:
        self._waiting -= 1
        if self._reason in ("interrupted", "unreachable", "time", "precise"):
            self._check_drained()
        else:
            self._send(conversation, due_ns)

    def _check_drained(self) -> None:
        if self._reason and not self._sender.in_air and not self._waiting:
            self._drained.set()


def _check_room(concurrency: int, room: int) -> None:
    if concurrency > room:
        raise UsageError(
            f"a concurrency of {concurrency} needs as many connections",
            expected=f"at most {room}, by this system's limit of open files",
            fix="raise it with `ulimit -Hn`, or use several clients",
        )
