"""How a request can end badly, as one class with a kind, so that a load test can count errors by kind."""

from __future__ import annotations

from serving.client.trust import UNTRUSTED
from trtllm_kit.errors import HostError

KINDS = {
    "unreachable": 4,
    "refused": 2,
    "overloaded": 4,
    "failed": 4,
    "cancelled": 4,
    "timeout": 4,
    "cut": 4,
    "garbage": 4,
}
"""kind -> exit code.

unreachable: no server there · refused: an error instead of a first token · overloaded: the queue was full ·
failed: an error after tokens had come · cancelled: ended by a cancel · timeout: no end in time ·
cut: the stream ended without a final response · garbage: bytes that are no answer
"""

_OVERLOAD = ("maximum queue size", "queue is full", "resource_exhausted")
_CANCEL = ("cancelled", "canceled")


class RequestError(HostError):
    """A request that did not end well. `kind` is a key of KINDS; `tokens` came before it."""

    def __init__(self, kind: str, happened: str, *, tokens: int = 0, expected: str = "", fix: str = "") -> None:
        super().__init__(happened, expected=expected, fix=fix)
        self.kind = kind
        self.tokens = tokens
        self.exit_code = KINDS[kind]


def unreachable(address: str, detail: str) -> RequestError:
    """Nothing answers at `address`, or nothing that may be believed."""
    if detail.startswith(UNTRUSTED):
        return RequestError(
            "unreachable",
            f"{address}: {detail}",
            expected="a certificate of a known authority, for this name",
            fix="give the authority's own with --ca-file, or --insecure for a server that you know",
        )
    return RequestError(
        "unreachable",
        f"no Triton answers at {address}: {detail}",
        expected="a running deployment",
        fix="see `trtllm-kit deploy status`, or start one with `trtllm-kit deploy`",
    )


def timed_out(address: str, seconds: float, tokens: int) -> RequestError:
    """The server at `address` took too long."""
    return RequestError(
        "timeout",
        f"the server at {address} had not finished after {seconds:g} s ({tokens} tokens came)",
        tokens=tokens,
        expected="an answer in time",
        fix="see its log with `trtllm-kit deploy logs`, or allow more time",
    )


def server_said(message: str, tokens: int) -> RequestError:
    """The server's own words, sorted into a kind by them and by whether tokens had come."""
    lowered = message.lower()
    if any(word in lowered for word in _OVERLOAD):
        kind = "overloaded"
    elif any(word in lowered for word in _CANCEL):
        kind = "cancelled"
    else:
        kind = "failed" if tokens else "refused"
    after = f" after {tokens} tokens" if tokens else ""
    return RequestError(kind, f"the server {_VERBS[kind]} the request{after}: {message}", tokens=tokens)


def cut_off(tokens: int) -> RequestError:
    """A stream that stopped without its final response."""
    return RequestError(
        "cut",
        f"the stream ended without a final response after {tokens} tokens",
        tokens=tokens,
        expected="a final response",
        fix="the server probably died: see `trtllm-kit deploy status`",
    )


_VERBS = {"overloaded": "had no room for", "cancelled": "cancelled", "failed": "failed", "refused": "refused"}
