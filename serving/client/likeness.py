"""Tells at a glance that an event is the one before it with another text, so that nothing in it is to be parsed."""

from __future__ import annotations

import functools

_QUOTE, _BACKSLASH = b'"\\'


class Likeness:
    """An event as what surrounds the JSON string in it that changes."""

    __slots__ = ("_head", "_size", "_start", "_tail")

    def __init__(self, head: bytes, tail: bytes) -> None:
        self._head, self._tail = head, tail
        self._start, self._size = len(head), len(tail)

    @staticmethod
    def of(event: bytes, start: int) -> Likeness:
        """Of an event whose text, which is not empty, begins at `start`."""
        return _shared(event[:start], event[event.find(b'"', start) :])

    def ending_in(self, behind: bytes) -> Likeness:
        """The same with these bytes behind every event."""
        return _shared(self._head, self._tail + behind)

    def holds(self, data: bytes, at: int = 0) -> bool:
        """Whether what begins at `at` differs in its text alone, which is not empty; no wherever that is unclear."""
        start = at + self._start
        end = data.find(b'"', start + 1)
        return (
            start < end == len(data) - self._size
            and data[end - 1] != _BACKSLASH  # else the text goes on behind the quotation mark
            and data[start] != _QUOTE
            and data.startswith(self._head, at)
            and data.endswith(self._tail)
            and data.find(b"\n", start, end) < 0  # inside a string it would be escaped
        )


@functools.lru_cache(maxsize=256)
def _shared(head: bytes, tail: bytes) -> Likeness:
    """One for all answers: of many streams at once each is cold in the processor's caches when its turn comes."""
    return Likeness(head, tail)
