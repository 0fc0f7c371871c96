"""Rotary frequencies per scaling rule, by the formulas that transformers uses, in its float32 arithmetic.

A rule is in the table only where the result depends on the config alone. `dynamic` depends on the length of the
sequence, which a fixed graph does not know, so it is refused; `longrope` has two sets of factors, and is exact for
sequences that are short enough for the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from builder.model_config import ModelConfig, Rope
from trtllm_kit.errors import SpecError

Frequencies = tuple[Any, float]
"""(inverse frequencies: float32 numpy [head_size/2], factor on cos and sin)"""


def frequencies(rope: Rope, config: ModelConfig) -> Frequencies:
    """Inverse frequencies and attention factor; SpecError for a rule that cannot be kept exactly."""
    rule = RULES.get(rope.kind)
    if rule is None:
        raise SpecError(
            f"the cpu runtime has no exact form of rope_type '{rope.kind}'",
            expected=f"rope_type one of {', '.join(RULES)}",
            fix="build this model for the tensorrt or pytorch runtime",
        )
    try:
        return rule(config, rope)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise SpecError(
            f"config.json: the rope scaling '{rope.kind}' is incomplete or impossible: {error!r}",
            expected="the keys that transformers documents for this rope_type",
            fix="check that config.json belongs to these weights",
        ) from None


def exact_length(rope: Rope) -> float:
    """Tokens up to which the frequencies are right for every sequence; infinite but for `longrope`."""
    return float(rope.scaling["original_max_position_embeddings"]) if rope.kind == "longrope" else math.inf


def rotated(rope: Rope, config: ModelConfig) -> int:
    """Features of a head that are rotated, the first ones."""
    return int(config.head_size * rope.share)


def _plain(config: ModelConfig, rope: Rope) -> Any:
    import numpy as np

    size = rotated(rope, config)
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return np.float32(1.0) / np.power(np.float32(rope.theta), exponents)


def _default(config: ModelConfig, rope: Rope) -> Frequencies:
    return _plain(config, rope), 1.0


def _linear(config: ModelConfig, rope: Rope) -> Frequencies:
    import numpy as np

    return _plain(config, rope) / np.float32(rope.scaling["factor"]), 1.0


def _llama3(config: ModelConfig, rope: Rope) -> Frequencies:
    """Long waves are slowed by `factor`, short ones kept, those between are blended."""
    import numpy as np

    scaling = rope.scaling
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    factor, length = float(scaling["factor"]), float(_original_length(config, scaling))
    plain = _plain(config, rope)
    wave = np.float32(2 * math.pi) / plain
    slowed = np.where(wave > length / low, plain / np.float32(factor), plain)
    blend = (np.float32(length) / wave - np.float32(low)) / np.float32(high - low)
    blended = (1 - blend) * slowed / np.float32(factor) + blend * slowed
    between = ~(wave < length / high) & ~(wave > length / low)
    return np.where(between, blended, slowed).astype(np.float32), 1.0


def _yarn(config: ModelConfig, rope: Rope) -> Frequencies:
    """Interpolated frequencies for long waves, extrapolated ones for short, a ramp between; cos and sin are scaled."""
    import numpy as np

    scaling, size = rope.scaling, rotated(rope, config)
    length = _original_length(config, scaling)
    factor = float(scaling["factor"] or config.max_position_embeddings / length)

    def dimension(rotations: float) -> float:
        return size * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low if high != low else 0.001
    ramp = np.clip((np.arange(size // 2, dtype=np.float32) - np.float32(low)) / np.float32(width), 0, 1)
    positions = np.float32(1.0) / _plain(config, rope)
    extrapolated = np.float32(1.0) / positions
    interpolated = np.float32(1.0) / (np.float32(factor) * positions)
    keep = 1 - ramp
    return (interpolated * (1 - keep) + extrapolated * keep).astype(np.float32), _yarn_attention(scaling, factor)


def _longrope(config: ModelConfig, rope: Rope) -> Frequencies:
    """Each wave has a factor of its own. These are the factors of short sequences; see `exact_length`."""
    import numpy as np

    scaling = rope.scaling
    length = float(scaling["original_max_position_embeddings"])
    factor = float(scaling.get("factor") or config.max_position_embeddings / length)
    attention = scaling.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(length))
    return _plain(config, rope) / np.asarray(scaling["short_factor"], np.float32), float(attention)


def _yarn_attention(scaling: Mapping[str, Any], factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    given = scaling.get("attention_factor")
    if given is not None:
        return float(given)
    over, under = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return mscale(over) / mscale(under) if over and under else mscale(1.0)


def _original_length(config: ModelConfig, scaling: Mapping[str, Any]) -> float:
    return float(scaling.get("original_max_position_embeddings") or config.max_position_embeddings)


RULES: Mapping[str, Callable[[ModelConfig, Rope], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
