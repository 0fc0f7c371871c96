"""HTTP/1.1 on bare sockets: Triton's paths and OpenAI's on one port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from http import HTTPStatus
from typing import Any

from serving.mock.dialects import DIALECTS, Dialect, event_bytes
from serving.mock.facts import Facts
from serving.mock.peer import Peer
from serving.mock.performance import Asked, Cue, PlannedFault, Stage

_HEAD_LIMIT = 1 << 16
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Conversation:
    """One connection: requests one after the other, each performed by a task of its own."""

    def __init__(self, peer: Peer, stage: Stage, facts: Facts) -> None:
        self._peer = peer
        self._stage = stage
        self._facts = facts
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        peer.received, peer.gone = self._received, self._gone

    def _gone(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _received(self, data: bytes, at_ns: int) -> None:
        self._buffer += data
        if self._task is None:
            self._next(at_ns)

    def _next(self, at_ns: int) -> None:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if not head[:1].isalpha():  # such as the first byte of TLS
                self._json(HTTPStatus.BAD_REQUEST, {"error": "no HTTP request"})
                self._peer.close()
            elif len(head) > _HEAD_LIMIT:
                self._peer.close()
            return
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        method, _, target = line.partition(" ")
        self._buffer = rest[length:]
        self._task = asyncio.get_running_loop().create_task(
            self._serve(method, target.partition(" ")[0].partition("?")[0], rest[:length], at_ns)
        )

    async def _serve(self, method: str, path: str, body: bytes, at_ns: int) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            if method == "POST" and (found := _generation(path, self._facts)) is not None:
                await self._generate(found, body, at_ns, streamed_path=path.endswith("generate_stream"))
            else:
                answer = self._facts.answer(method, path)
                self._reply(*answer)
        self._task = None
        if not self._peer.closed and self._buffer:
            self._next(time.perf_counter_ns())

    async def _generate(self, dialect: Dialect, body: bytes, at_ns: int, *, streamed_path: bool) -> None:
        try:
            document = json.loads(body)
            if document.get("stop") is True:
                self._stage.stop(str(document.get("id", "")))
                return self._stream_nothing()
            asked = dialect.asked(document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._json(HTTPStatus.BAD_REQUEST, dialect.error(f"the request cannot be read: {error!r}"))
        streamed = streamed_path if dialect.name in ("engine", "llmapi") else asked.stream
        try:
            if streamed:
                await self._stream(dialect, asked, at_ns)
            else:
                async with contextlib.aclosing(self._stage.perform(dialect.name, asked, at_ns)) as cues:
                    async for cue in cues:
                        cue.sent()
                        self._json(HTTPStatus.OK, dialect.whole(cue.chunk, asked))
        except PlannedFault as fault:
            if fault.kind == "hidden_error":
                self._json(HTTPStatus.OK, dialect.error(str(fault)))
            elif fault.kind == "refuse":
                self._json(dialect.error_status, dialect.error(str(fault)))
            else:
                self._peer.close(abort=True)
        return None

    async def _stream(self, dialect: Dialect, asked: Asked, at_ns: int) -> None:
        """The head goes out with the first event, so that a refusal can still have a status of its own."""
        begun, so_far, tokens = False, "", 0
        try:
            async with contextlib.aclosing(self._stage.perform(dialect.name, asked, at_ns)) as cues:
                async for cue in cues:
                    if not begun:
                        begun = self._begin(dialect)
                    so_far += cue.chunk.text if dialect.name == "llmapi" else ""
                    tokens += cue.chunk.tokens
                    await self._event(event_bytes(dialect.event(cue.chunk, so_far, asked)), cue)
        except PlannedFault as fault:
            if fault.kind == "refuse":
                raise
            if not begun:
                self._begin(dialect)
            if fault.kind == "cut":
                return self._peer.close(abort=True)
            wrong = b"data: {not json\n\n" if fault.kind == "garbage" else event_bytes(dialect.error(str(fault)))
            self._chunk(wrong)
        else:
            if not begun:
                self._begin(dialect)
            for body in dialect.last(tokens, asked):
                self._chunk(event_bytes(body))
            if dialect.end:
                self._chunk(dialect.end)
        self._peer.write(b"0\r\n\r\n")
        return None

    def _begin(self, dialect: Dialect) -> bool:
        self._peer.write(_STREAM_HEAD)
        if dialect.first is not None:
            self._chunk(event_bytes(dialect.first()))
        return True

    async def _event(self, data: bytes, cue: Cue) -> None:
        framed = b"%x\r\n%b\r\n" % (len(data), data)
        if self._facts.behaviour.split_utf8:
            half = next((at for at, byte in enumerate(framed) if byte & 0xC0 == 0x80), 0)
            self._peer.write(framed[:half])
            await asyncio.sleep(0.0005)  # so that the halves arrive apart
            framed = framed[half:]
        cue.sent()
        self._peer.write(framed)

    def _chunk(self, data: bytes) -> None:
        self._peer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _stream_nothing(self) -> None:
        self._peer.write(_STREAM_HEAD + b"0\r\n\r\n")

    def _json(self, status: int, body: Any) -> None:
        self._reply(status, "application/json", json.dumps(body, ensure_ascii=False).encode())

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        self._peer.write(f"{head}\r\n\r\n".encode("latin-1") + body)


def _generation(path: str, facts: Facts) -> Dialect | None:
    if path == "/v1/completions":
        return DIALECTS["completions"]
    if path == "/v1/chat/completions":
        return DIALECTS["chat"]
    model, _, verb = path.removeprefix("/v2/models/").partition("/")
    if model in facts.models and verb in ("generate", "generate_stream"):
        return DIALECTS[facts.layout]
    return None
