"""The paged KV cache: bytes for a token, and how many sequences of a length distribution fit into a pool."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from profiles.model_shape import ModelShape
from trtllm_kit.errors import SpecError

_SAFE_SIGMAS = 1.645  # 95 % of a normal distribution lie below
_FORMS = re.compile(r"(?P<kind>fixed|uniform):(?P<low>\d+)(?::(?P<high>\d+))?")


def token_bytes(shape: ModelShape, kv_bits: float = 16, tp_size: int = 1, pp_size: int = 1) -> float:
    """Bytes that one token takes on the fullest rank, all its layers: 2 × layers × KV heads × head size × bits / 8.

    The heads are `num_key_value_heads`, not the query heads; MLA keeps a latent vector instead, on every rank.
    """
    return shape.kv_elements_per_rank(tp_size, pp_size) * kv_bits / 8


@dataclass(frozen=True)
class Lengths:
    """A distribution of sequence lengths in tokens, prompt and answer together: every value equally likely."""

    values: Sequence[int]

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """`fixed:4096`, `uniform:50:2048`, or a file with one length a line."""
        match = _FORMS.fullmatch(text)
        if match is None and Path(text).is_file():
            return cls(_read(Path(text)))
        if match is None or (match["kind"] == "uniform") != (match["high"] is not None):
            raise SpecError(
                f"'{text}' is no distribution of lengths",
                expected="fixed:TOKENS, uniform:LOW:HIGH, or a file with one length a line",
                fix="for example uniform:50:2048",
            )
        low, high = int(match["low"]), int(match["high"] or match["low"])
        if not 0 < low <= high:
            raise SpecError(f"'{text}' has no length above 0", expected="0 < LOW <= HIGH", fix="swap or raise them")
        return cls(range(low, high + 1))

    def blocks(self, tokens_per_block: int) -> tuple[float, float]:
        """Mean and standard deviation of the blocks that a sequence takes."""
        counts = [-(-length // tokens_per_block) for length in self.values]
        mean = sum(counts) / len(counts)
        return mean, math.sqrt(sum((count - mean) ** 2 for count in counts) / len(counts))


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Sequences that a pool holds."""

    on_average: int  # their expected need fits
    safely: int  # 95 times in 100 they fit together; the scheduler delays or pauses one in the other cases
    at_full_length: int  # even if all were as long as the longest


def sequences(pool_bytes: float, bytes_per_token: float, lengths: Lengths, tokens_per_block: int = 32) -> Capacity:
    """How many sequences fit. A sequence takes whole blocks; the lengths are independent of each other."""
    blocks = math.floor(pool_bytes / (bytes_per_token * tokens_per_block))
    mean, deviation = lengths.blocks(tokens_per_block)
    longest = -(-max(lengths.values) // tokens_per_block)
    full = blocks // longest
    # n × mean + z × deviation × √n ≤ blocks, solved for √n
    root = (math.sqrt((_SAFE_SIGMAS * deviation) ** 2 + 4 * mean * blocks) - _SAFE_SIGMAS * deviation) / (2 * mean)
    return Capacity(
        on_average=math.floor(blocks / mean), safely=max(full, math.floor(root**2 + 1e-9)), at_full_length=full
    )


def _read(path: Path) -> list[int]:
    try:
        found = [int(line) for line in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} cannot be read as lengths: {error}", expected="one whole number a line") from None
    if not found or min(found) < 1:
        raise SpecError(f"{path} has no lengths, or one below 1", expected="one whole number above 0 a line")
    return found
