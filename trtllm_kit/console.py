"""How the kit talks: results on stdout, talk on stderr, plain lines without a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Protocol


class Talk(Protocol):
    """What a long step may say while it works. Floors below the command line see only this."""

    def say(self, text: str) -> None:
        """One line of talk."""

    def warn(self, text: str) -> None:
        """One line that a person should not miss."""

    def progress(self, done: float, total: float, what: str) -> None:
        """Where a long step stands; cheap to call often. Units are the caller's, `what` names them."""


class Silent:
    """A Talk that says nothing, for callers that only want the result."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def progress(self, done: float, total: float, what: str) -> None: ...


class StderrTalk:
    """Plain lines on stderr; progress redraws one line on a terminal and prints a slow step's quarters elsewhere.

    What takes long says how long it will still take, by the pace since it was first heard of.
    """

    _REDRAW_S = 0.1
    _QUICK_S = 2.0
    _LONG_S = 10.0

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._color = self._terminal and "NO_COLOR" not in os.environ
        self._drawn_at = 0.0
        self._open_line = False
        self._what, self._since, self._first_share, self._quarter = "", 0.0, 0.0, 0

    def say(self, text: str) -> None:
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"{self._paint('warning:', 33)} {text}")

    def progress(self, done: float, total: float, what: str) -> None:
        if self._quiet or total <= 0:
            return
        share, now = min(done / total, 1.0), time.monotonic()
        if what != self._what:
            self._what, self._since, self._first_share, self._quarter = what, now, share, 0
        if self._terminal:
            self._redraw(share, now)
        else:
            self._print_quarter(share, now)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block and say so; a failure is left to the caller's error."""
        started = time.monotonic()
        self.say(f"{self._paint(name, 1)} ...")
        yield
        self.say(f"{self._paint(name, 1)} done in {time.monotonic() - started:.1f} s")

    def _print_quarter(self, share: float, now: float) -> None:
        quarter = int(share * 4)
        if quarter > self._quarter and now - self._since > self._QUICK_S:
            self._line(f"  {self._what}: {quarter / 4:.0%}{self._left(share, now)}")
        self._quarter = quarter

    def _redraw(self, share: float, now: float) -> None:
        if now - self._drawn_at < self._REDRAW_S and share < 1:
            return
        self._drawn_at = now
        filled = int(share * 30)
        bar = "█" * filled + "░" * (30 - filled)
        sys.stderr.write(f"\r\x1b[K  {bar} {share:4.0%} {self._what}{self._left(share, now)}")
        sys.stderr.flush()
        self._open_line = True

    def _left(self, share: float, now: float) -> str:
        gone, done = now - self._since, share - self._first_share
        left = gone / done * (1 - share) if done > 0 else 0.0
        if gone + left < self._LONG_S or left < 1:
            return ""
        return f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left"

    def _line(self, text: str) -> None:
        if self._open_line:
            sys.stderr.write("\r\x1b[K")
            self._open_line = False
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def _paint(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text
