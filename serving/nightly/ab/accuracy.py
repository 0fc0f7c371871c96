"""How often a server's next token is that of held-out text: the quality of what is served, whatever the runtime.

Both sides get the same contexts, so only those count on which they part (McNemar 1947). The interval of the difference
is that of Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
paired data", which holds for few differences and for none.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from builder.quantize.calibration.samples import load_heldout
from serving.client.loop import run
from serving.client.request import Endpoint, Request
from serving.client.transports import gather, open_client
from serving.nightly.ab.limits import judged
from serving.nightly.ab.rule import Rule
from serving.nightly.record import Figure

_CONTEXT_TOKENS = 64
_AT_ONCE = 8
_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Context:
    """A piece of held-out text, and what comes next in it."""

    prompt: str
    following: str


def contexts(tokenizer_dir: Path, count: int, seed: int) -> list[Context]:
    """So many, or all there are, from all over the held-out text; ends that are only spaces are left out."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    texts = [text for slice_texts in load_heldout().values() for text in slice_texts]
    encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    places = [(at, end) for at, ids in enumerate(encoded) for end in range(_CONTEXT_TOKENS, len(ids))]
    random.Random(f"{seed}/contexts").shuffle(places)
    found: list[Context] = []
    for at, end in places:
        window = encoded[at][end - _CONTEXT_TOKENS : end + 1]
        prompt, whole = tokenizer.decode(window[:-1]), tokenizer.decode(window)
        # A token that holds a part of a character has no text of its own.
        if whole.startswith(prompt) and whole[len(prompt) :].strip() and "\ufffd" not in whole[-2:]:
            found.append(Context(prompt=prompt, following=whole[len(prompt) :].strip()))
        if len(found) == count:
            break
    return found


def next_tokens(endpoint: Endpoint, asked: Sequence[Context]) -> list[str]:
    """The text of each context's next token, chosen greedily. RequestError when one does not come."""
    return run(_ask(endpoint, asked))


def judge(asked: Sequence[Context], candidate: Sequence[str], incumbent: Sequence[str], rule: Rule) -> list[Figure]:
    """Accuracy against the rule, and how often the two say the same, which nobody is judged by: a new revision of a
    model says other things and is no worse for it."""
    right = [
        (one.strip() == context.following, other.strip() == context.following)
        for context, one, other in zip(asked, candidate, incumbent, strict=True)
    ]
    shares = [sum(side) / len(right) for side in zip(*right, strict=True)]
    lost, won = (sum(pair == parted for pair in right) for parted in ((False, True), (True, False)))
    low, high = paired_interval(lost, won, len(right), rule.confidence)
    scale = max(shares[1], 1 / len(right))
    limit = -rule.max_accuracy_loss
    agreement = sum(one == other for one, other in zip(candidate, incumbent, strict=True)) / len(right)
    return [
        Figure(
            metric="accuracy",
            unit="of next tokens",
            candidate=shares[0],
            incumbent=shares[1],
            change=(shares[0] - shares[1]) / scale,
            low=low / scale,
            high=high / scale,
            limit=limit,
            status=judged(-high / scale, -low / scale, -limit),
        ),
        Figure(metric="agreement", unit="of next tokens", candidate=agreement),
    ]


def paired_interval(lost: int, won: int, count: int, confidence: float) -> tuple[float, float]:
    """Of the candidate's share of right answers less the incumbent's; `lost` and `won` are where only one was right."""
    worse, better, size = (lost + 1) / (count + 2), (won + 1) / (count + 2), count + 2
    difference = better - worse
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((worse + better - difference**2) / size)
    return difference - reach, difference + reach


async def _ask(endpoint: Endpoint, asked: Sequence[Context]) -> list[str]:
    gate = asyncio.Semaphore(_AT_ONCE)
    async with open_client(endpoint) as client:

        async def one(number: int, context: Context) -> str:
            request = Request(prompt=context.prompt, max_tokens=1, stream=False, top_k=1, request_id=f"ab-{number}")
            async with gate:
                return (await gather(client, request, timeout_s=_TIMEOUT_S)).text

        return await asyncio.gather(*(one(number, context) for number, context in enumerate(asked)))
