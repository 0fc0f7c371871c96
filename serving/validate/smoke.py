"""One plain and one streamed completion: do they come, and do the streamed pieces make the plain text?"""

from __future__ import annotations

from typing import Any

from serving.client.errors import RequestError
from serving.client.request import Completion, Endpoint, Request
from serving.client.transports import complete
from serving.validate.results import CheckResult, Status

PROMPT = "The list of"
_MAX_TOKENS = 24
_TIMEOUT_S = 120.0


def smoke(
    endpoint: Endpoint, *, prompt: str = PROMPT, decoupled: bool = True, timeout_s: float = _TIMEOUT_S
) -> CheckResult:
    """Greedy, so that both must say the same. Without decoupled mode only the plain one can be asked for."""
    try:
        plain = _ask(endpoint, prompt, timeout_s, stream=False)
        streamed = _ask(endpoint, prompt, timeout_s, stream=True) if decoupled else None
    except RequestError as error:
        return CheckResult(name="smoke", status="fail", reasons=(error.happened,), data={"error": error.kind})
    reasons = _faults(plain, streamed)
    status: Status = "fail" if reasons else "pass"
    if streamed is None:
        reasons.append("streaming was not tried: the repository is not in decoupled mode")
    return CheckResult(name="smoke", status=status, reasons=tuple(reasons), data=_data(prompt, plain, streamed))


def _ask(endpoint: Endpoint, prompt: str, timeout_s: float, *, stream: bool) -> Completion:
    request = Request(prompt=prompt, max_tokens=_MAX_TOKENS, stream=stream, top_k=1)
    return complete(endpoint, request, timeout_s=timeout_s)


def _faults(plain: Completion, streamed: Completion | None) -> list[str]:
    rows = [("plain", plain)] + ([("streamed", streamed)] if streamed else [])
    faults = [
        f"the {name} completion has {completion.tokens} tokens, {_MAX_TOKENS} were asked for"
        for name, completion in rows
        if completion.tokens > _MAX_TOKENS
    ]
    faults += [f"the {name} completion has no token" for name, completion in rows if not completion.tokens]
    if streamed is None:
        return faults
    if plain.text != streamed.text:
        at = _first_difference(plain.text, streamed.text)
        faults.append(
            f"the streamed pieces do not make the plain text: they part at character {at}: "
            f"{streamed.text[at : at + 20]!r} instead of {plain.text[at : at + 20]!r}"
        )
    if plain.counted_by == streamed.counted_by == "server" and plain.tokens != streamed.tokens:
        faults.append(f"{streamed.tokens} tokens streamed, {plain.tokens} in the plain answer")
    return faults


def _data(prompt: str, plain: Completion, streamed: Completion | None) -> dict[str, Any]:
    data: dict[str, Any] = {"prompt": prompt, "text": plain.text, "tokens": plain.tokens}
    if streamed is not None and streamed.arrivals:
        data["streamed_responses"] = len(streamed.arrivals)
        data["ttft_ms"] = 1e3 * (streamed.arrivals[0][0] - streamed.started_s)
    return data


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))
