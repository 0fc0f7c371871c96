"""How long answers may wait to be read: one turn of the event loop then reads many, and each costs less."""

from __future__ import annotations

from serving.client.pool import Pool
from serving.load.records import Record

_MOST_NS, _UNKNOWN_NS = 4e6, 5e5
_OF_ANSWER, _OF_GAP = 1 / 400, 1 / 5


class Rest:
    """Sets the pool's nap, for a closed loop over streams that the kernel stamps; others do not rest.

    The stamps keep the times of what waits true. But the next request is sent that much later, so a nap is short
    beside the shortest answer; and two tokens that are read together have one stamp, so it is short beside their gap.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._most_ns = _MOST_NS
        self._known = False

    def aged(self, age_ns: int) -> None:
        """The run has lasted so long: until the first answer ends, none is shorter."""
        if not self._known:
            self._allow(min(_UNKNOWN_NS, _OF_ANSWER * age_ns))

    def ended(self, record: Record) -> None:
        """Here is another answer."""
        self._known = True
        self._most_ns = min(self._most_ns, _OF_ANSWER * max(record.e2e_ns, 0))
        if record.gaps_us:
            self._most_ns = min(self._most_ns, _OF_GAP * 1e3 * sum(record.gaps_us) / len(record.gaps_us))
        self._allow(self._most_ns)

    def _allow(self, nap_ns: float) -> None:
        if self._pool.clock.stamped:
            self._pool.poller.nap_s = nap_ns / 1e9
