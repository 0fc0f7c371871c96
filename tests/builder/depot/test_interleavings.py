"""Two nights, a deployment and a garbage collector at once, in a thousand orders of their operations on the store.

Each actor is a thread that does as many operations on the store as the schedule says, and can be killed between any
two. After every change the store itself is looked at, past the depot.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.depot import Depot, LostRace, Version
from builder.depot.objects import Objects, open_objects
from builder.depot.records import CellName, CellRecord, Entry, Verdict
from trtllm_kit.console import Silent
from trtllm_kit.errors import SpecError

_ROUNDS = 4


class Killed(BaseException):
    """As `kill -9`: no operation of this process happens any more."""


class Stepwise:
    """`Objects` whose every operation waits for its turn; what acts on many objects acts on one after the other."""

    def __init__(self, objects: Objects, turn: Callable[[], None], changed: Callable[[], None]) -> None:
        self._objects, self._turn, self._changed, self.url = objects, turn, changed, objects.url

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for path in paths:
            self._turn()
            found |= self._objects.read([path])
        return found

    def below(self, folder: str) -> list[str]:
        return [path for name in self.names(folder) for path in self._listed(f"{folder}/{name}")]

    def _listed(self, folder: str) -> list[str]:
        self._turn()
        return self._objects.below(folder)

    def names(self, folder: str) -> list[str]:
        self._turn()
        return self._objects.names(folder)

    def put(self, path: str, data: bytes) -> None:
        self._turn()
        self._objects.put(path, data)
        self._changed()

    def create(self, path: str, data: bytes) -> bool:
        self._turn()
        created = self._objects.create(path, data)
        self._changed()
        return created

    def upload(self, path: str, source: Path) -> str:
        self._turn()
        digest = self._objects.upload(path, source)
        self._changed()
        return digest

    def download(self, path: str, target: Path) -> None:
        self._turn()
        self._objects.download(path, target)

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._turn()
            self._objects.delete([path])
            self._changed()


class Actor:
    """A process: `work` on a depot of its own, some operations at a time."""

    def __init__(self, world: World, work: Callable[[Depot], None]) -> None:
        self._go, self._paused = threading.Lock(), threading.Lock()  # each is let go by the other thread
        self._left = 0
        self._killed = self.ended = False
        self.failure: BaseException | None = None
        self._world, self._work = world, work
        self._go.acquire()
        self._paused.acquire()
        threading.Thread(target=self._run, daemon=True).start()
        self._paused.acquire()

    def step(self, operations: int) -> None:
        """So many operations, fewer when the work ends before."""
        self._left = operations
        self._go.release()
        self._paused.acquire()

    def kill(self) -> None:
        self._killed = True
        self.step(0)

    def _turn(self) -> None:
        while self._left == 0 and not self._killed:
            self._paused.release()
            self._go.acquire()
        if self._killed:
            raise Killed
        self._left -= 1

    def _run(self) -> None:
        try:
            self._work(Depot(Stepwise(self._world.objects, self._turn, self._world.check)))
        except Killed:
            pass
        except BaseException as error:
            self.failure = error
        self.ended = True
        self._paused.release()


class World:
    """The store, those who work on it, and what has to be true of it at every moment."""

    def __init__(self, cell: CellName, artifacts: Sequence[Path], entry: Callable[..., Entry], script: bytes) -> None:
        self._memory = fsspec.filesystem("memory")
        self._memory.store.clear()
        self.objects = open_objects("memory://depot")
        self.cell, self._artifacts, self.entry = cell, artifacts, entry
        self._choices = itertools.cycle(script)
        self.moved: dict[int, CellRecord] = {}  # by those who were told that they had moved it
        self.held: set[str] = set()

    def choose(self, count: int) -> int:
        return next(self._choices) % count

    def night(self, depot: Depot) -> None:
        for _ in range(_ROUNDS):
            try:
                self._one_night(depot)
            except LostRace:
                continue

    def _one_night(self, depot: Depot) -> None:
        seen = depot.read(self.cell)
        if seen.record.previous is not None and self.choose(4) == 0:
            self._move(depot, seen, seen.record.rolled_back(night="by hand", at_unix_s=1.0))
            return
        artifact = self._artifacts[self.choose(len(self._artifacts))]
        with depot.publish(artifact, talk=Silent()) as upload:
            if self.choose(2) == 0:  # a night that reads the cell anew has to be stopped if it dropped this upload
                seen = depot.read(self.cell)
            built = self._move(depot, seen, seen.record.built(self.entry(artifact, upload), at_unix_s=1.0))
        against = built.record.current.digest if built.record.current else None
        decision = ("promote", "keep")[self.choose(2)]
        verdict = Verdict(decision=decision, against=against, reasons=("measured",), night="n")  # type: ignore[arg-type]
        self._move(depot, built, built.record.judged(verdict, at_unix_s=2.0))

    def build(self, depot: Depot, artifact: Path) -> None:
        """A new candidate, undisturbed."""
        seen = depot.read(self.cell)
        with depot.publish(artifact, talk=Silent()) as upload:
            self._move(depot, seen, seen.record.built(self.entry(artifact, upload), at_unix_s=1.0))

    def _move(self, depot: Depot, seen: Version, record: CellRecord) -> Version:
        moved = depot.move(self.cell, seen, record)
        assert moved.number not in self.moved, "two were told that they had moved the cell"
        self.moved[moved.number] = record
        return moved

    def collector(self, depot: Depot) -> None:
        for _ in range(_ROUNDS):
            depot.collect(keep_days=0, dry_run=False)

    def deployer(self, depot: Depot) -> None:
        for _ in range(_ROUNDS):
            builds = list(depot.read(self.cell).record.entries().values())
            if not builds:
                continue
            build = builds[self.choose(len(builds))]
            try:
                depot.hold(build.digest, "production", "deployed")
            except SpecError:  # the ref has moved on
                continue
            self.held.add(build.digest)
            self.check()
            depot.read(self.cell)
            self.held.discard(build.digest)
            depot.release(build.digest, "production")

    def check(self) -> None:
        """What has to be true at every moment."""
        stored = self.stored()
        records = _records(stored)
        assert list(records) == list(range(1, len(records) + 1))
        for number, record in self.moved.items():
            assert records[number] == record
        if records:
            for ref in records[len(records)].entries().values():
                assert _intact(stored, ref.digest, ref.upload), f"a ref dangles: {ref.digest[:6]}/{ref.upload}"
        for digest in self.held:
            assert any(_intact(stored, digest, name) for name in self.objects.names(f"artifacts/{digest}")), "not held"

    def stored(self) -> dict[str, bytes]:
        return {path.removeprefix("/depot/"): file.getvalue() for path, file in self._memory.store.items()}

    def forget_pins(self) -> None:
        """As if all pins that dead processes left had been made long ago."""
        for path in self.objects.below("pins"):
            self.objects.put(path, json.dumps({"at_unix_s": 0.0}).encode())


@functools.cache
def _record(data: bytes) -> CellRecord:
    return CellRecord.from_json(json.loads(data)["record"])


def _records(stored: Mapping[str, bytes]) -> dict[int, CellRecord]:
    """All that lie in the store, by number."""
    logged = sorted(path for path in stored if path.startswith("refs/"))
    return {int(path.rpartition("/")[2].removesuffix(".json")): _record(stored[path]) for path in logged}


def _intact(stored: Mapping[str, bytes], digest: str, upload: str) -> bool:
    folder = f"artifacts/{digest}/{upload}"
    if f"{folder}/manifest.json" not in stored:
        return False
    files = json.loads(stored[f"{folder}/manifest.json"])["files"]
    return files == {name: hashlib.sha256(stored.get(f"{folder}/{name}", b"")).hexdigest() for name in files}


@pytest.fixture(scope="module")
def artifacts(artifact: Callable[..., Path]) -> list[Path]:
    return [artifact("one"), artifact("two"), artifact("three")]


_OPERATIONS = (1, 1, 1, 2, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 50)


@settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    lineup=st.lists(st.integers(0, 3), min_size=4, max_size=8),
    schedule=st.binary(min_size=20, max_size=60),
    script=st.binary(min_size=1, max_size=60),
)
def test_no_order_of_operations_loses_a_ref_or_an_artifact(
    cell: CellName,
    artifacts: list[Path],
    entry: Callable[..., Entry],
    lineup: list[int],
    schedule: bytes,
    script: bytes,
) -> None:
    world = World(cell, artifacts, entry, script)
    works = [world.night, world.night, world.collector, world.deployer]
    actors = [Actor(world, work) for work in works]
    for byte in schedule:
        at = lineup[byte % len(lineup)]
        actor = actors[at]
        actor.step(_OPERATIONS[byte // 4 % 16])
        if byte >= 224 and not actor.ended:
            actor.kill()
            if at == 3:
                world.held.clear()  # its hold may stay, but nobody counts on it
        if actor.failure is not None:
            raise actor.failure
        if actor.ended:
            actors[at] = Actor(world, works[at])
    for actor in actors:
        actor.kill()
    world.held.clear()

    world.forget_pins()
    for name in world.objects.below("holds"):
        world.objects.delete([name])
    Depot(world.objects).collect(keep_days=0, dry_run=False)
    world.check()
    newest = list(_records(world.stored()).values())[-1:]
    referred = {(ref.digest, ref.upload) for record in newest for ref in record.entries().values()}
    assert {tuple(path.split("/")[1:3]) for path in world.objects.below("artifacts")} == referred
    assert world.objects.below("pins") == []


def test_a_hold_taken_at_any_moment_of_a_collection_keeps_what_the_refs_then_drop(
    cell: CellName, artifacts: list[Path], entry: Callable[..., Entry]
) -> None:
    def hold_and_drop(world: World, depot: Depot) -> None:
        digest = entry(artifacts[0], "").digest
        depot.hold(digest, "production", "deployed")
        world.held.add(digest)
        world.build(depot, artifacts[1])

    assert _interrupt(World.collector, hold_and_drop, cell, artifacts, entry) > 10


def test_a_hold_during_which_the_refs_drop_the_build_and_it_is_collected_is_refused(
    cell: CellName, artifacts: list[Path], entry: Callable[..., Entry]
) -> None:
    def drop_and_collect(world: World, depot: Depot) -> None:
        world.build(depot, artifacts[1])
        depot.collect(keep_days=0, dry_run=False)

    assert _interrupt(World.deployer, drop_and_collect, cell, artifacts, entry) > 5


def _interrupt(
    work: Callable[[World, Depot], None],
    event: Callable[[World, Depot], None],
    cell: CellName,
    artifacts: list[Path],
    entry: Callable[..., Entry],
) -> int:
    """Let `event` happen before the first operation of `work`, in another world before the second, and so on."""
    operations, ended = 0, False
    while not ended:
        world = World(cell, artifacts, entry, b"\0")
        depot = Depot(world.objects)
        world.build(depot, artifacts[0])
        actor = Actor(world, functools.partial(work, world))
        actor.step(operations)
        ended = actor.ended
        event(world, depot)
        if not ended:
            actor.step(10_000)
        assert actor.ended
        if actor.failure is not None:
            raise actor.failure
        world.check()
        operations += 1
    return operations
