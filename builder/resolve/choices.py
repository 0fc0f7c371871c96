"""Where the reasons of a plan are collected."""

from __future__ import annotations

from typing import Any, TypeVar

_T = TypeVar("_T")


class Choices:
    """Collects the reason of each value that the user left open."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def take(self, key: str, written: Any, default: _T, reason: str) -> _T:
        """What the user wrote, else `default` because of `reason`."""
        if written is None or written == "auto":
            self.reasons[key] = reason
            return default
        return written  # type: ignore[no-any-return]
