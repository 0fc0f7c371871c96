"""Tells at a glance that an event is the one before it with another text, so that nothing in it is to be parsed."""

from __future__ import annotations

_QUOTE, _BACKSLASH = b'"\\'


class Likeness:
    """Remembers one event as what surrounds the JSON string in it that changes."""

    __slots__ = ("_head", "_tail")

    def __init__(self) -> None:
        self._head = self._tail = b""

    def remember(self, event: bytes, start: int) -> None:
        """An event whose text, which is not empty, begins at `start`."""
        self._head, self._tail = event[:start], event[event.find(b'"', start) :]

    def holds(self, event: bytes) -> bool:
        """Whether only the text differs, and is not empty. An event that cannot be told apart so is no likeness."""
        start, tail = len(self._head), self._tail
        end = event.find(b'"', start + 1)
        return (
            end == len(event) - len(tail)
            and event[end - 1] != _BACKSLASH  # else the text goes on behind the quotation mark
            and event[start] != _QUOTE
            and event.startswith(self._head)
            and event.endswith(tail)
            and start > 0
        )
