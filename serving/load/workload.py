"""What is asked: sessions of one or more turns, made from a seed. The same seed gives the same bytes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from serving.client.request import Request
from serving.load.lengths import Lengths
from serving.load.prompts import TextSource
from trtllm_kit.errors import UsageError

NO_END = -1
"""As `end_id` it makes an engine ignore the end of the sequence, so that every answer has the length asked for."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One request of a session: what it adds to what was said before."""

    text: str
    max_tokens: int
    input_tokens: int | None = None  # of this turn's text alone
    messages: tuple[tuple[str, str], ...] = ()  # (role, content) instead of the text
    delay_s: float = 0.0  # after the end of the turn before


@dataclass(frozen=True, kw_only=True)
class Session:
    """A conversation."""

    turns: tuple[Turn, ...]


class Workload(Protocol):
    """Where sessions come from."""

    def sessions(self) -> Iterator[Session]:
        """From the first one on, the same each time."""


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Random words. Of each prompt `prefix_share` is one of `prefix_pool` texts that many prompts begin with."""

    input_len: Lengths
    output_len: Lengths
    seed: int = 0
    tokenizer_dir: Path | None = None  # without one, a word is taken for a token
    prefix_share: float = 0.0
    prefix_pool: int = 1
    turns: int = 1
    think_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.prefix_share <= 1 or self.prefix_pool < 1 or self.turns < 1:
            raise UsageError("prefix share is 0 to 1, prefix pool and turns are 1 or more", expected="such numbers")

    def sessions(self) -> Iterator[Session]:
        """Without end. Each has a source of its own, so the nth is the same however many were made before it."""
        source = TextSource(self.tokenizer_dir)
        prefixes: dict[tuple[int, int], str] = {}
        for number in itertools.count():
            draw = random.Random(f"{self.seed}/session/{number}")
            yield Session(turns=tuple(self._turn(draw, source, prefixes, turn) for turn in range(self.turns)))

    def _turn(self, draw: random.Random, source: TextSource, prefixes: dict[tuple[int, int], str], turn: int) -> Turn:
        tokens = self.input_len.draw(draw)
        words = max(tokens - source.special * (turn == 0), 1)
        shared = round(words * self.prefix_share) if turn == 0 else 0
        parts = [source.text(words - shared, draw)]
        if shared:
            key = (draw.randrange(self.prefix_pool), shared)
            if key not in prefixes:
                prefixes[key] = source.text(shared, random.Random(f"{self.seed}/prefix/{key[0]}"))
            parts.insert(0, prefixes[key])
        text = " ".join(part for part in parts if part)
        return Turn(
            text=text,
            max_tokens=self.output_len.draw(draw),
            input_tokens=tokens,
            delay_s=self.think_s if turn else 0.0,
        )


@dataclass(frozen=True, kw_only=True)
class Given:
    """Sessions that were read from a file, over and over unless `once`, shuffled by `seed` where there is one."""

    given: Sequence[Session]
    seed: int | None = None
    once: bool = False

    def __post_init__(self) -> None:
        if not self.given:
            raise UsageError("the dataset is empty", expected="one JSON object per line")

    def sessions(self) -> Iterator[Session]:
        """In order, or in the seed's order."""
        order = list(self.given)
        if self.seed is not None:
            random.Random(f"{self.seed}/order").shuffle(order)
        return iter(order) if self.once else itertools.cycle(order)


@dataclass(kw_only=True)
class Conversation:
    """A session under way: builds each turn's request from what was said before."""

    number: int
    session: Session
    template: Request
    turn: int = -1
    messages: list[tuple[str, str]] = field(default_factory=list)
    asked_input: int | None = None

    @property
    def next_delay_s(self) -> float | None:
        """Seconds to wait before the next turn; None when there is none."""
        at = self.turn + 1
        return self.session.turns[at].delay_s if at < len(self.session.turns) else None

    @property
    def goes_on(self) -> bool:
        """Whether the answer's text is needed for a next turn."""
        return self.turn + 1 < len(self.session.turns)

    def next_request(self) -> Request:
        """The next turn's request."""
        self.turn += 1
        turn = self.session.turns[self.turn]
        self.messages += list(turn.messages) or [("user", turn.text)]
        self.asked_input = turn.input_tokens if self.turn == 0 else None
        return replace(
            self.template,
            prompt="\n".join(content for _, content in self.messages),
            messages=tuple(self.messages),
            max_tokens=turn.max_tokens,
            request_id=f"{self.template.request_id}{self.number}-{self.turn}",
        )

    def answered(self, text: str) -> None:
        """Take the answer into what was said."""
        self.messages.append(("assistant", text))
