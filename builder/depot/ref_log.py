"""A cell's refs as a log of numbered, immutable records: the newest is what counts, the others are its history.

`refs/<model>/<precision>/<sku>/<layout>/<number>.json`, numbers from 1 on without gaps. To compare and swap is to
create the next number exclusively: of two that follow the same record, the store lets one through. No record is ever
rewritten, so none is ever seen in part.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from builder.depot.objects import Objects
from builder.depot.records import CellName, CellRecord
from trtllm_kit.errors import IntegrityError, KitError, SpecError
from trtllm_kit.files import canonical_json

_FOLDER = "refs"
_FORMAT = 1
_SUFFIX = ".json"


class LostRace(KitError):  # noqa: N818 - no fault of anybody's, and no end: the caller reads again
    """Another process moved the cell first; nothing was changed. Read the cell again and decide anew."""

    exit_code = 9

    def __init__(self, cell: CellName, happened: str) -> None:
        super().__init__(
            f"{cell}: {happened}",
            expected="that nobody else moves this cell at the same time",
            fix="run again: it goes on from what the other left",
        )


@dataclass(frozen=True, kw_only=True)
class Version:
    """A cell's record and its place in the cell's history; number 0: never written."""

    number: int
    record: CellRecord


def read(objects: Objects, cell: CellName) -> Version:
    """The newest version of a cell's record."""
    while numbers := _numbers(objects, cell):
        path = _path(cell, numbers[-1])
        if found := objects.read([path]):
            return Version(number=numbers[-1], record=_parsed(path, found[path]))
        # So many newer ones were written since the listing that this one was trimmed away.
    return Version(number=0, record=CellRecord())


def read_all(objects: Objects) -> dict[CellName, Version]:
    """The newest version of every cell's record: one listing, then all reads at once."""
    newest = {cell: numbers[-1] for cell, numbers in _listing(objects).items()}
    paths = {cell: _path(cell, number) for cell, number in newest.items()}
    found = objects.read(list(paths.values()))
    return {
        cell: Version(number=newest[cell], record=_parsed(path, found[path])) if path in found else read(objects, cell)
        for cell, path in paths.items()
    }


def append(objects: Objects, cell: CellName, expected: Version, record: CellRecord) -> Version:
    """Write `record` as the successor of `expected`; LostRace when there is one already."""
    path = _path(cell, expected.number + 1)
    # The writer's mark tells our own record from a rival's when a reply was lost and the request was sent again.
    data = canonical_json({"format": _FORMAT, "writer": uuid.uuid4().hex, "record": record.to_json()})
    if not objects.create(path, data) and objects.read([path]).get(path) != data:
        raise LostRace(cell, "another process moved its refs first")
    # Trimming goes upwards: while the expected record stands, its successor cannot have been there and be trimmed away.
    if expected.number and not objects.read([_path(cell, expected.number)]):
        objects.delete([path])
        raise LostRace(cell, "its refs were moved so often since they were read that the record has been trimmed away")
    return Version(number=expected.number + 1, record=record)


def history(objects: Objects, cell: CellName) -> list[Version]:
    """Every version that is kept, oldest first."""
    numbers = {_path(cell, number): number for number in _numbers(objects, cell)}
    found = objects.read(list(numbers))
    return [Version(number=numbers[path], record=_parsed(path, found[path])) for path in numbers if path in found]


def trimmable(objects: Objects, keep: int) -> list[str]:
    """Records that came before the newest `keep` of their cell, in the order in which they have to be removed."""
    return [_path(cell, number) for cell, numbers in _listing(objects).items() for number in numbers[:-keep]]


def _listing(objects: Objects) -> dict[CellName, list[int]]:
    """The numbers of every cell's records, ascending."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for path in objects.below(_FOLDER):
        name, _, file = path.removeprefix(f"{_FOLDER}/").rpartition("/")
        if number := _number(file):
            by_name[name].append(number)
    return {cell: sorted(numbers) for name, numbers in by_name.items() if (cell := _cell(name)) is not None}


def _numbers(objects: Objects, cell: CellName) -> list[int]:
    return sorted(number for name in objects.names(f"{_FOLDER}/{cell}") if (number := _number(name)))


def _path(cell: CellName, number: int) -> str:
    return f"{_FOLDER}/{cell}/{number:08d}{_SUFFIX}"


def _number(file: str) -> int:
    """0: a file that is no record."""
    stem = file.removesuffix(_SUFFIX)
    return int(stem) if stem != file and stem.isdecimal() else 0


def _cell(name: str) -> CellName | None:
    try:
        return CellName.parse(name)
    except SpecError:
        return None


def _parsed(path: str, data: bytes) -> CellRecord:
    try:
        tree = json.loads(data)
    except ValueError:
        tree = None
    if not isinstance(tree, Mapping) or tree.get("format") != _FORMAT:
        raise IntegrityError(
            f"{path} in the depot is no record of format {_FORMAT}",
            expected="a record written by this kit or an older one",
            fix="update trtllm-kit; if the file is damaged, remove it: the record before it counts then",
        )
    return CellRecord.from_json(tree["record"])
