"""Whether a text was calibrated on: its quality after quantization would then prove nothing.

Texts are compared by a sample of their shingles that does not depend on where a passage begins ("winnowing by modulus",
Broder 1997, "On the resemblance and containment of documents").
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

_SHINGLE_CHARACTERS = 32
_EVERY = 8  # shingles of which one is kept
_SEEN = 0.5  # share of a text's shingles from which on it counts as known


class SeenTexts:
    """The texts that were calibrated on."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._whole: set[str] = set()
        self._shingles: set[int] = set()
        for text in texts:
            plain = _plain(text)
            self._whole.add(plain)
            self._shingles |= _shingles(plain)

    def __contains__(self, text: str) -> bool:
        """Whether `text` is one of them, but for spaces and case, or half of it stands in them."""
        plain = _plain(text)
        if plain in self._whole:
            return True
        own = _shingles(plain) if self._shingles else set()
        return bool(own) and len(own & self._shingles) >= _SEEN * len(own)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _shingles(plain: str) -> set[int]:
    data = plain.encode("utf-32-le", "replace")
    width = 4 * _SHINGLE_CHARACTERS
    hashes = (zlib.crc32(data[at : at + width]) for at in range(0, len(data) - width + 1, 4))
    return {value for value in hashes if value % _EVERY == 0}
