"""From a flight that has ended to its record."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable

from serving.load.flight import Flight
from serving.load.records import UNFINISHED, Record
from serving.load.workload import Conversation

_BY_CANCEL = (None, "failed", "refused")
"""How an answer ends whose generation was stopped: whole, or with the server's word of it."""


def record_of(
    flight: Flight,
    conversation: Conversation,
    *,
    origin_ns: int,
    retokenize: Callable[[str], int] | None,
) -> Record:
    """The record of one request. `retokenize` counts its text in place of the server."""
    error = flight.error.kind if flight.error else None
    if flight.unfinished:
        error = UNFINISHED
    elif flight.cancelled and error in _BY_CANCEL and flight.output_tokens < flight.request.max_tokens:
        error = "cancelled"  # else the stop came too late
    tokens, counted_by = flight.output_tokens, flight.counted_by
    if retokenize is not None:
        tokens, counted_by = retokenize("".join(flight.text)), "tokenizer"
    arrivals = flight.arrivals_ns
    return Record(
        number=flight.number,
        session=conversation.number,
        turn=conversation.turn,
        scheduled_ns=flight.scheduled_ns - origin_ns,
        sent_ns=flight.sent_ns - origin_ns,
        first_ns=arrivals[0] - origin_ns if arrivals else None,
        ended_ns=flight.ended_ns - origin_ns,
        asked_input=conversation.asked_input,
        asked_output=flight.request.max_tokens,
        input_tokens=flight.input_tokens,
        output_tokens=tokens,
        counted_by=counted_by,
        error=error,
        message=flight.error.happened if flight.error else "",
        gaps_us=_gaps_us(arrivals),
        counts=tuple(flight.counts),
    )


def _gaps_us(arrivals_ns: array[int]) -> tuple[int, ...]:
    """Differences of times rounded down: their sum is less than a microsecond short, and no token is after the end."""
    if not arrivals_ns:
        return ()
    first = arrivals_ns[0]
    return tuple(later - sooner for sooner, later in itertools.pairwise((at - first) // 1000 for at in arrivals_ns))
