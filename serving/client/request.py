"""What is asked of a server and what comes back, free of any wire format."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from serving.client.trust import SYSTEM, Trust
from trtllm_kit.errors import UsageError

GRPC_OFFSET = 1  # Triton's default ports are 8000 and 8001


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a deployment answers. `transport` is a row of serving.client.links.LINKS."""

    http: str  # "127.0.0.1:8000"
    grpc: str  # "127.0.0.1:8001"
    transport: str = "engine-grpc"
    model: str | None = None  # None: the layout's own completion model
    tls: bool = False
    trust: Trust = SYSTEM  # over TLS

    @classmethod
    def from_url(
        cls, url: str, *, grpc: str | None = None, transport: str = "engine-grpc", model: str | None = None
    ) -> Endpoint:
        """From an address as people type it; the gRPC port is the HTTP port plus one unless given."""
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError(
                f"'{url}' is no address of a server", expected="http://HOST:PORT", fix="e.g. http://127.0.0.1:8000"
            )
        tls = parts.scheme == "https"
        port = port or (443 if tls else 8000)
        shown = f"[{host}]" if ":" in host else host
        return cls(
            http=f"{shown}:{port}",
            grpc=grpc or f"{shown}:{port + GRPC_OFFSET}",
            transport=transport,
            model=model,
            tls=tls,
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """One completion. Fields that are None are not sent, so the server's own defaults apply."""

    prompt: str = ""
    messages: tuple[tuple[str, str], ...] = ()  # (role, content) in place of the prompt, for chat
    input_ids: tuple[int, ...] | None = None  # for the model below the tokenizer
    max_tokens: int = 16
    stream: bool = True
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_words: tuple[str, ...] = ()
    end_id: int | None = None  # -1: never stop at the end-of-sequence token
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """One response of the server. `tokens` is the server's own count for it, None when it gives none."""

    text: str
    tokens: int | None
    at_s: float  # time.perf_counter() at arrival
    ids: tuple[int, ...] = ()
    input_tokens: int | None = None
    final: bool = False
    total: int | None = None  # the server's count of the whole answer, where it comes only at the end


@dataclass(kw_only=True)
class Completion:
    """A request's responses, added up as they arrive."""

    started_s: float = field(default_factory=time.perf_counter)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # (perf_counter, tokens) of token-bearing responses
    input_tokens: int | None = None
    finished_s: float = 0.0
    counted_by: str = "server"  # "responses" when the server gives no counts, "usage" when only of the whole
    total: int | None = None

    def add(self, delta: Delta) -> None:
        """Take one delta. Without a count of the server, a response that carries text is one token."""
        if delta.tokens is None and (delta.text or delta.ids):
            self.counted_by = "responses"
        tokens = delta.tokens if delta.tokens is not None else int(bool(delta.text or delta.ids))
        self.text += delta.text
        self.ids.extend(delta.ids)
        if tokens:
            self.arrivals.append((delta.at_s, tokens))
        if delta.total is not None:
            self.total, self.counted_by = delta.total, "usage"
        if delta.input_tokens is not None:
            self.input_tokens = delta.input_tokens
        self.finished_s = delta.at_s

    @property
    def tokens(self) -> int:
        """Output tokens so far."""
        return sum(count for _, count in self.arrivals) if self.total is None else self.total
