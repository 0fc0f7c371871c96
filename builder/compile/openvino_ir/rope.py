"""Rotary frequencies per scaling rule, by the formulas that transformers uses, in its float32 arithmetic.

A rule is in the table only where the result depends on the config alone. `dynamic` and `longrope` depend on the length
of the sequence, which a fixed graph does not know, so they are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from builder.model_config import ModelConfig
from trtllm_kit.errors import SpecError

Frequencies = tuple[Any, float]
"""(inverse frequencies: float32 numpy [head_size/2], factor on cos and sin)"""


def frequencies(config: ModelConfig) -> Frequencies:
    """Inverse frequencies and attention factor; SpecError for a rule that cannot be kept exactly."""
    kind = config.rope.kind
    rule = RULES.get(kind)
    share = float(config.rope.scaling.get("partial_rotary_factor", config.raw.get("partial_rotary_factor") or 1.0))
    if rule is None or share != 1.0:
        what = f"rope_type '{kind}'" if rule is None else f"partial_rotary_factor {share}"
        raise SpecError(
            f"the cpu runtime has no exact form of {what}",
            expected=f"rope_type one of {', '.join(RULES)}, over the whole head",
            fix="build this model for the tensorrt or pytorch runtime",
        )
    try:
        return rule(config, config.rope.scaling)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise SpecError(
            f"config.json: the rope scaling '{kind}' is incomplete or impossible: {error!r}",
            expected="the keys that transformers documents for this rope_type",
            fix="check that config.json belongs to these weights",
        ) from None


def _plain(config: ModelConfig) -> Any:
    import numpy as np

    exponents = np.arange(0, config.head_size, 2, dtype=np.float32) / np.float32(config.head_size)
    return np.float32(1.0) / np.power(np.float32(config.rope.theta), exponents)


def _default(config: ModelConfig, scaling: Mapping[str, Any]) -> Frequencies:
    return _plain(config), 1.0


def _linear(config: ModelConfig, scaling: Mapping[str, Any]) -> Frequencies:
    import numpy as np

    return _plain(config) / np.float32(scaling["factor"]), 1.0


def _llama3(config: ModelConfig, scaling: Mapping[str, Any]) -> Frequencies:
    """Long waves are slowed by `factor`, short ones kept, those between are blended."""
    import numpy as np

    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    factor, length = float(scaling["factor"]), float(_original_length(config, scaling))
    plain = _plain(config)
    wave = np.float32(2 * math.pi) / plain
    slowed = np.where(wave > length / low, plain / np.float32(factor), plain)
    blend = (np.float32(length) / wave - np.float32(low)) / np.float32(high - low)
    blended = (1 - blend) * slowed / np.float32(factor) + blend * slowed
    between = ~(wave < length / high) & ~(wave > length / low)
    return np.where(between, blended, slowed).astype(np.float32), 1.0


def _yarn(config: ModelConfig, scaling: Mapping[str, Any]) -> Frequencies:
    """Interpolated frequencies for long waves, extrapolated ones for short, a ramp between; cos and sin are scaled."""
    import numpy as np

    length, size = _original_length(config, scaling), config.head_size
    factor = float(scaling["factor"] or config.max_position_embeddings / length)

    def dimension(rotations: float) -> float:
        return size * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(config.rope.theta))

    low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low if high != low else 0.001
    ramp = np.clip((np.arange(size // 2, dtype=np.float32) - np.float32(low)) / np.float32(width), 0, 1)
    positions = np.float32(1.0) / _plain(config)
    extrapolated = np.float32(1.0) / positions
    interpolated = np.float32(1.0) / (np.float32(factor) * positions)
    keep = 1 - ramp
    return (interpolated * (1 - keep) + extrapolated * keep).astype(np.float32), _yarn_attention(scaling, factor)


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


RULES: Mapping[str, Callable[[ModelConfig, Mapping[str, Any]], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
