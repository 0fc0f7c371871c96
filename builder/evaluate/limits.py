"""How much quality a build may lose: a row of limits for each width of weight, and the words to change one of them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from trtllm_kit.errors import SpecError, UsageError

USUAL_PERPLEXITY = 10.0
"""Up to here a default limit is in points of perplexity, as people quote them for models whose perplexity is 5 to 10.
Above, the same points mean less and less, and a few documents that the model hardly knows decide about all of them: the
limit becomes the ratio that it is at this perplexity, +5 % in place of +0.5."""


@dataclass(frozen=True, kw_only=True)
class LimitedMetric:
    """A metric that a limit may be set for."""

    what: str  # as a sentence calls it
    largest: float  # that a limit may be; beyond, it would say nothing
    at_least: bool = False  # the limit is a lower bound


LIMITED: Mapping[str, LimitedMetric] = MappingProxyType(
    {
        "perplexity_increase": LimitedMetric(what="the increase of perplexity", largest=math.inf),
        "perplexity_ratio": LimitedMetric(what="the ratio of the perplexities", largest=math.inf),
        "kl_mean": LimitedMetric(what="the mean KL divergence", largest=math.inf),
        "kl_p99": LimitedMetric(what="the 99th percentile of the KL divergence", largest=math.inf),
        "top1_agreement": LimitedMetric(what="the agreement on the first choice", largest=1.0, at_least=True),
    }
)

# Published for Llama 3 8B (llama.cpp's scoreboard, 2024; KL in nats a token and agreement on the first choice, both
# against 16 bits): bf16 against fp16 2.5e-5 and 99.7 %; 8 bits 0.0014 and 97.7 %; 6 bits 0.0055 and 96.0 %; 5 bits
# 0.011 to 0.022; 4 bits 0.031 and 91.9 % at best, 0.072 where only rounded; 3 bits 0.10 and up. Weights alone are
# rounded there. Activations of 8 bits cost about as much again, so the 8-bit row ends above 5 bits, the 4-bit row
# where 3 bits begin: what loses more than a format of fewer bits would is broken, or a bad bargain. The agreement is
# looser than that, for it falls faster the less sure a model is: NVFP4 on a small one keeps 84 % at a KL of 0.046.
_ROWS: Mapping[int, Mapping[str, float]] = MappingProxyType(
    {
        16: {"perplexity_increase": 0.05, "kl_mean": 0.001, "top1_agreement": 0.99},
        8: {"perplexity_increase": 0.5, "kl_mean": 0.03, "top1_agreement": 0.9},
        4: {"perplexity_increase": 1.2, "kl_mean": 0.1, "top1_agreement": 0.8},
    }
)


def nearest_width(bits: float) -> int:
    """The row of limits for weights of `bits` on average: 16, 8 or 4."""
    return min(_ROWS, key=lambda width: (abs(math.log2(width) - math.log2(bits)), width))


def limits_for(width: int, base_perplexity: float, chosen: Mapping[str, float]) -> dict[str, float]:
    """Every limit in force: the row's own, and in their place what the user has chosen, which holds to the letter."""
    row = dict(_ROWS[width])
    if base_perplexity > USUAL_PERPLEXITY:
        row["perplexity_ratio"] = 1 + row.pop("perplexity_increase") / USUAL_PERPLEXITY
    return {name: {**row, **chosen}[name] for name in LIMITED if name in row or name in chosen}


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """`metric=value`, several in a text with commas between; UsageError for what is no such pair."""
    chosen: dict[str, float] = {}
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        name, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"the limit '{text}' has no value", expected="metric=value", fix="e.g. kl_mean=0.05")
        chosen[name.strip()] = _number(name, value)
    return chosen


def check_limits(chosen: Mapping[str, float]) -> None:
    """SpecError for an unknown metric and for a limit that nothing or everything would meet."""
    for name, value in chosen.items():
        metric = LIMITED.get(name)
        if metric is None:
            near = difflib.get_close_matches(name, LIMITED, n=1, cutoff=0.4)
            raise SpecError(
                f"there is no limit for '{name}'",
                expected="one of " + ", ".join(LIMITED),
                fix=f"write '{near[0]}'" if near else "choose one of these",
            )
        if not 0 < value <= metric.largest or math.isinf(value):
            bound = f"up to {metric.largest:g}" if metric.largest < math.inf else "without an end"
            raise SpecError(f"the limit {name}={value:g} is out of range", expected=f"a number above 0, {bound}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"the limit {name}={text} is no number", expected="a number", fix=f"e.g. {name}=0.05"
        ) from None
