"""The part of HTTP/1.1 that a completion needs, on bare asyncio streams: a load test cannot afford more per token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

_LINE_LIMIT = 1 << 24  # a single response may carry logits


class HttpConnection:
    """One connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host
        self._headers: dict[str, str] = {}
        self.status = 0
        self.reusable = False
        self.expired = False

    @classmethod
    async def open(cls, address: str, *, tls: bool = False) -> HttpConnection:
        """Connect to "host:port"; OSError as the system gives it."""
        host, _, port = address.rpartition(":")
        streams = await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls or None, limit=_LINE_LIMIT)
        return cls(*streams, address)

    async def post(self, path: str, body: bytes) -> None:
        """Send a JSON body and read the answer's head into `status`."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode("latin-1") + body)
        await self._writer.drain()
        status_line = await self._line()
        parts = status_line.split(" ", 2)
        if not parts[0].startswith("HTTP/") or len(parts) < 2 or not parts[1].isdigit():
            raise ConnectionError(f"no HTTP answer: {status_line[:80]!r}")
        self.status = int(parts[1])
        self._headers = {}
        while line := await self._line():
            name, _, value = line.partition(":")
            self._headers[name.strip().lower()] = value.strip()

    async def read_all(self) -> bytes:
        """The whole body."""
        return b"".join([part async for part in self._parts()])

    async def server_sent_events(self) -> AsyncIterator[bytes]:
        """The data of each event, complete ones only."""
        rest = b""
        async for part in self._parts():
            *events, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                data = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
                if data:
                    yield b"\n".join(data)
        if rest.strip():
            raise asyncio.IncompleteReadError(rest, None)

    def close(self) -> None:
        """Drop the connection, which also tells the server that nobody listens any more."""
        self._writer.close()

    def expire(self) -> None:
        """Drop it because its time is over; whoever reads sees the end, and `expired` tells why."""
        self.expired = True
        self.close()

    async def _parts(self) -> AsyncIterator[bytes]:
        self.reusable = False
        if self._headers.get("transfer-encoding", "").lower() == "chunked":
            async for part in self._chunks():
                yield part
        elif "content-length" in self._headers:
            yield await self._reader.readexactly(int(self._headers["content-length"]))
        else:
            while part := await self._reader.read(65536):
                yield part
            return
        self.reusable = self._headers.get("connection", "").lower() != "close"

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            head = (await self._line()).partition(";")[0]
            try:
                size = int(head, 16)
            except ValueError:
                raise ConnectionError(f"broken chunk: {head[:20]!r}") from None
            if size:
                yield await self._reader.readexactly(size)
            await self._reader.readline()
            if not size:
                return

    async def _line(self) -> str:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise asyncio.IncompleteReadError(line, None)
        return line.rstrip(b"\r\n").decode("latin-1")
