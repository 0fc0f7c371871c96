"""The tokens that the engine picks greedily must be those of transformers on the same weights in float32."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from serving.client.errors import RequestError
from serving.client.request import Endpoint, Request
from serving.client.transports import complete
from serving.validate.hugging_face import LOCAL, quiet_transformers
from serving.validate.results import CheckResult, Status

PROMPTS = (
    "The list of",
    "def main(argv):",
    "In the beginning there was a",
    "A string is",
)
_MAX_TOKENS = 24
_TIMEOUT_S = 120.0
TIE = 1e-3
"""Logits nearer than this may change places between two exact float32 programs that add in another order."""


@dataclass(frozen=True, kw_only=True)
class Parting:
    """Where the engine took another token than transformers would."""

    prompt: str
    at: int  # index among the generated tokens
    engine: int
    transformers: int
    logit_gap: float  # of transformers' logits: its own choice above the engine's

    @property
    def tie(self) -> bool:
        """Whether float32 rounding explains it."""
        return self.logit_gap <= TIE


def greedy_parity(endpoint: Endpoint, checkpoint: Path, tokenizer_dir: Path) -> CheckResult:
    """Compare token by token on PROMPTS. Skipped, with the reason, where torch or transformers is absent."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        return _result("skipped", (f"{error.name} is not installed: pip install 'trtllm-kit[quantize]'",))
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_dir), **LOCAL)
        model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32, **LOCAL).eval()
    partings: list[Parting] = []
    for prompt in PROMPTS:
        ids = tuple(tokenizer(prompt)["input_ids"])
        try:
            tokens = _engine_tokens(endpoint, ids)
        except RequestError as error:
            return _result("fail", (error.happened,))
        if len(tokens) != _MAX_TOKENS:
            return _result("fail", (f"{len(tokens)} tokens came for {prompt!r}, {_MAX_TOKENS} were asked for",))
        parting = _first_parting(model, prompt, ids, tokens)
        partings += [parting] if parting else []
    return _judge(partings)


def _engine_tokens(endpoint: Endpoint, ids: tuple[int, ...]) -> list[int]:
    below = replace(endpoint, transport="tokens-grpc", model=None)
    request = Request(input_ids=ids, max_tokens=_MAX_TOKENS, stream=False, top_k=1, end_id=-1)
    return complete(below, request, timeout_s=_TIMEOUT_S).ids


def _first_parting(model: Any, prompt: str, ids: tuple[int, ...], tokens: list[int]) -> Parting | None:
    """One forward pass over prompt and answer shows what greedy decoding picks, up to the first parting."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1 : -1]
    best = logits.argmax(dim=-1).tolist()
    for at, (engine, expected) in enumerate(zip(tokens, best, strict=True)):
        if engine != expected:
            gap = float(logits[at, expected] - logits[at, engine])
            return Parting(prompt=prompt, at=at, engine=engine, transformers=expected, logit_gap=gap)
    return None


def _judge(partings: list[Parting]) -> CheckResult:
    status: Status = "pass" if not partings else "warn" if all(p.tie for p in partings) else "fail"
    reasons = tuple(
        f"{p.prompt!r}: token {p.at} is {p.engine}, transformers picks {p.transformers}, logit gap {p.logit_gap:.2g}"
        + (" (a tie in float32)" if p.tie else "")
        for p in partings
    )
    data = {"prompts": len(PROMPTS), "tokens_each": _MAX_TOKENS, "partings": [asdict(p) for p in partings]}
    return CheckResult(name="greedy_parity", status=status, reasons=reasons, data=data)


def _result(status: Status, reasons: tuple[str, ...]) -> CheckResult:
    return CheckResult(name="greedy_parity", status=status, reasons=reasons)
