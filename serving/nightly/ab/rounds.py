"""Rounds: both sides started anew, loaded in turns, and stopped. One round is one sample of each metric.

Two starts of the very same server differ: memory is laid out anew, threads land on other cores, kernels are chosen
anew. What lasts as long as the process is no evidence about the build, however often it is measured, so a start and not
a request is what is repeated (Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time"). Chance decides who
is started and who is loaded first.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from serving.nightly.ab.contender import Contender
from serving.nightly.ab.load import Block, Load, Prompts


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One start of a side, and the blocks of load that it took."""

    cold_start_s: float
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Round:
    """The nth block of one side had the same prompts as the nth of the other, right before or after it."""

    candidate: Visit
    incumbent: Visit


@dataclass(kw_only=True)
class Rounds:
    """Plays rounds. `at_once`: both sides run while they are loaded in turns; else one after the other."""

    candidate: Contender
    incumbent: Contender
    load: Load
    requests: int  # in a block
    blocks: int  # of each side in a round
    at_once: bool

    def __post_init__(self) -> None:
        self._coin = random.Random(f"{self.load.seed}/order")

    def play(self) -> Iterator[Round]:
        """Without end. LostError when a side does not start, does not answer or dies; nothing runs afterwards."""
        while True:
            try:
                found = self._together() if self.at_once else self._one_by_one()
            finally:
                self.candidate.stop()
                self.incumbent.stop()
            yield found

    def _together(self) -> Round:
        starts = {side.name: self._start(side) for side in self._sides()}
        found: dict[str, list[Block]] = {name: [] for name in starts}
        for prompts in self._prompts():
            for side in self._sides():
                found[side.name].append(self.load.run(side, prompts))
        return self._round({name: Visit(cold_start_s=starts[name], blocks=tuple(found[name])) for name in starts})

    def _one_by_one(self) -> Round:
        found, prompts = {}, self._prompts()
        for side in self._sides():
            cold_start_s = self._start(side)
            blocks = tuple(self.load.run(side, each) for each in prompts)
            found[side.name] = Visit(cold_start_s=cold_start_s, blocks=blocks)
            side.stop()
        return self._round(found)

    def _round(self, visits: Mapping[str, Visit]) -> Round:
        return Round(candidate=visits[self.candidate.name], incumbent=visits[self.incumbent.name])

    def _sides(self) -> list[Contender]:
        return self._coin.sample([self.candidate, self.incumbent], 2)

    def _start(self, side: Contender) -> float:
        """Up, and its threads and connections awake: the first answers of a process are not those that it will give."""
        cold_start_s = side.start()
        self.load.run(side, self.load.take(self.load.concurrency))
        return cold_start_s

    def _prompts(self) -> list[Prompts]:
        return [self.load.take(self.requests) for _ in range(self.blocks)]
