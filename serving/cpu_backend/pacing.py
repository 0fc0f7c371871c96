"""How often a stream may speak, so that telling about tokens never costs much beside making them.

A response through Triton costs a fixed quarter of a millisecond of CPU. A small model makes a token in about as long,
so with many streams a response for each token would nearly double the work. Beyond a few streams, tokens that come
faster than the budget allows travel together; large models never come near it. First and last tokens never wait.
"""

from __future__ import annotations

_FREE_STREAMS = 4  # so few streams always send each token by itself
_SHARE = 0.05  # of one CPU's time, for all streams together
_SERVER_FACTOR = 2.0  # a response costs the server process about as much again as the thread that sends it
_SMOOTHING = 0.05


class Pacer:
    """Decides from the measured cost of a response when a stream is due again. Times are in seconds."""

    def __init__(self) -> None:
        self._cost_s = 0.0

    def spent(self, thread_s: float) -> None:
        """Note the CPU time that the sending thread needed for one response."""
        self._cost_s += _SMOOTHING * (thread_s * _SERVER_FACTOR - self._cost_s)

    def interval_s(self, streams: int) -> float:
        """The least time between two responses of one stream."""
        return 0.0 if streams <= _FREE_STREAMS else streams * self._cost_s / _SHARE
