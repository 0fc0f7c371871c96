"""One request performed: the queue, the waits, the faults. The wires above it only put chunks into words."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from serving.mock.behaviour import Behaviour, Chunk, draw_plan
from serving.mock.ledger import Entry, Ledger

_MESSAGES = {
    "refuse": "prompt length (9) exceeds the maximum (8)",
    "hidden_error": "the engine is out of KV cache blocks",
    "late_error": "the engine ran out of KV cache blocks",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request in no wire's words."""

    prompt: str
    max_tokens: int
    stream: bool
    echo: bool = False  # the answer begins with the prompt, and counts it
    usage: bool = True
    request_id: str = ""

    @property
    def input_tokens(self) -> int:
        """A word is a token here."""
        return len(self.prompt.split())


@dataclass(frozen=True, slots=True)
class Cue:
    """A chunk whose time has come. `sent` notes it in the ledger: to be called right before the network has it."""

    chunk: Chunk
    entry: Entry
    due_ns: int
    tokens: int  # generated ones, without an echo
    ledger: Ledger

    def sent(self) -> None:
        self.ledger.sent(self.entry, self.tokens, self.due_ns)


class PlannedFault(Exception):  # noqa: N818 (no error of ours: it is what was asked for)
    """A fault of the plan; `kind` is a rate's name of Behaviour."""

    def __init__(self, kind: str) -> None:
        super().__init__(_MESSAGES.get(kind, kind))
        self.kind = kind


class Stage:
    """Performs requests by one behaviour and one ledger. Lives in one event loop."""

    def __init__(self, behaviour: Behaviour, ledger: Ledger) -> None:
        self.ledger = ledger
        self._behaviour = behaviour
        self._slots = asyncio.Semaphore(behaviour.slots) if behaviour.slots else None
        self._seen: Counter[str] = Counter()
        self._stopped: set[str] = set()

    def stop(self, request_id: str) -> None:
        """End the request of this id where its next chunk would come, as the engine's `stop` input does."""
        self._stopped.add(request_id)

    async def perform(self, dialect: str, asked: Asked, at_ns: int) -> AsyncGenerator[Cue, None]:
        """Chunks at their times after `at_ns`, when the request arrived; PlannedFault where the plan has one.

        Leaving the generator early is a cancel.
        """
        digest = hashlib.sha256(asked.prompt.encode("utf-8", "replace")).hexdigest()[:16]
        entry = self.ledger.open(
            dialect=dialect,
            received_ns=at_ns,
            request_id=asked.request_id,
            prompt_digest=digest,
            input_tokens=asked.input_tokens,
            asked=asked.max_tokens,
        )
        nth = self._seen[digest]
        self._seen[digest] += 1
        end = "cancelled"
        if self._slots is not None:
            await self._slots.acquire()
        try:
            async for cue in self._play(entry, asked, nth):
                yield cue
            end = "cancelled" if asked.request_id in self._stopped else "complete"
        except PlannedFault as fault:
            end = {"refuse": "refused"}.get(fault.kind, fault.kind)
            raise
        finally:
            if self._slots is not None:
                self._slots.release()
            self._stopped.discard(asked.request_id)
            self.ledger.close(entry, end)

    async def _play(self, entry: Entry, asked: Asked, nth: int) -> AsyncGenerator[Cue, None]:
        plan = draw_plan(
            self._behaviour,
            prompt=asked.prompt,
            input_tokens=entry.input_tokens,
            tokens=asked.max_tokens,
            nth=nth,
        )
        entry.started_ns = entry.received_ns if self._slots is None else time.perf_counter_ns()
        entry.stalled = plan.fault == "stall"
        if plan.fault in ("refuse", "hidden_error"):
            raise PlannedFault(plan.fault)
        if not asked.stream:
            yield await self._whole(entry, asked, plan.chunks)
            return
        for number, chunk in enumerate(plan.chunks):
            due_ns = entry.started_ns + int(chunk.due_s * 1e9)
            await asyncio.sleep((due_ns - time.perf_counter_ns()) / 1e9)
            if plan.fault in ("late_error", "cut", "garbage") and number == plan.fault_at:
                raise PlannedFault(plan.fault)
            if asked.request_id in self._stopped:
                return
            yield Cue(chunk, entry, due_ns, chunk.tokens, self.ledger)

    async def _whole(self, entry: Entry, asked: Asked, chunks: tuple[Chunk, ...]) -> Cue:
        due_s = chunks[-1].due_s if chunks else 0.0
        await asyncio.sleep(due_s)
        text, tokens = "".join(chunk.text for chunk in chunks), sum(chunk.tokens for chunk in chunks)
        chunk = Chunk(due_s, tokens, text)
        if asked.echo:
            chunk = Chunk(due_s, entry.input_tokens + tokens, asked.prompt + text)
        return Cue(chunk, entry, entry.started_ns + int(due_s * 1e9), tokens, self.ledger)
