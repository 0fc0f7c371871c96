"""Text by its source: the bundled passages, a JSONL file of the user's, a dataset on the hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from typing import Any, Literal

from trtllm_kit.errors import HostError, SpecError

BUNDLED = "default"
Part = Literal["calibration", "heldout"]

_HELD_OUT_OF_100 = 20  # documents of a user's file that calibration leaves to the evaluation
_DATASET = re.compile(
    r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[^:#]+))?(?::(?P<split>[^#]+))?(?:#(?P<column>.+))?"
)
_COLUMNS = ("text", "messages", "content", "article", "prompt")
_DATASET_ROWS = 20_000  # that are looked at; more than any calibration needs


@dataclass(frozen=True)
class Document:
    """A text, or a chat whose template writes the special tokens itself."""

    text: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    slice: str = "own"  # of the evaluation: "natural", "code", "long context", or the user's own

    def __bool__(self) -> bool:
        return bool(self.text.strip() or self.messages)

    @property
    def is_held_out(self) -> bool:
        """Whether it belongs to the evaluation: by its content, so that more or reordered lines move no other."""
        content = json.dumps([self.text, *self.messages], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).digest()[0] * 100 < _HELD_OUT_OF_100 * 256


def bundled(part: Part) -> list[Document]:
    """Passages in some twenty languages and code. The two parts share no text; licences in data/LICENSE.md."""
    path = resources.files(__package__) / "data" / f"{part}.jsonl"
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [Document(text=row["text"], slice=row["slice"]) for row in rows]


def read(source: str, part: Part) -> list[Document]:
    """The documents of "default", a JSONL file or `org/name[@revision][:split][#column]` that belong to `part`.

    SpecError naming the line or key that cannot be used, HostError for a dataset that cannot be had here.
    """
    if source == BUNDLED:
        return bundled(part)
    rows = _jsonl(Path(source)) if Path(source).is_file() or source.endswith(".jsonl") else _dataset(source)
    return [row for row in rows if row and row.is_held_out == (part == "heldout")]


def _jsonl(path: Path) -> Iterator[Document]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}", expected="a JSONL file in UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _wrong(f"{path} line {number}", f"is no JSON: {error}") from None
            yield _document(row, f"{path} line {number}")


def _document(row: Any, where: str) -> Document:
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return Document(text=row["text"])
    messages = row.get("messages") if isinstance(row, dict) else None
    if isinstance(messages, list) and all(isinstance(turn, dict) and "role" in turn for turn in messages):
        return Document(messages=tuple(messages))
    raise _wrong(where, "has neither a text nor messages")


def _wrong(where: str, what: str) -> SpecError:
    return SpecError(
        f"{where} {what}",
        expected='{"text": "..."} or {"messages": [{"role": "user", "content": "..."}, ...]} on each line',
        fix="correct the file; `jq -c` writes one object a line",
    )


def _dataset(source: str) -> Iterator[Document]:
    """Rows are streamed: a dataset of a terabyte costs no more than one of a megabyte."""
    match = _DATASET.fullmatch(source)
    if match is None:
        raise SpecError(
            f"calibration data '{source}' is neither a file nor a dataset",
            expected="default, a JSONL file, or org/name[@revision][:split][#column]",
        )
    try:
        datasets: Any = import_module("datasets")
    except ImportError:
        raise HostError(
            f"the dataset {match['id']} needs the package `datasets`, which is not installed",
            expected="datasets 2.14 or newer",
            fix="pip install datasets, or give a JSONL file",
        ) from None
    try:
        rows = datasets.load_dataset(
            match["id"], revision=match["revision"], split=match["split"] or "train", streaming=True
        )
        yield from _rows(rows.take(_DATASET_ROWS), match["column"], match["id"])
    except (OSError, ValueError) as error:  # what `datasets` makes of a missing network, name, split or script
        raise HostError(
            f"the dataset {source} cannot be read: {error}",
            expected="a dataset in Parquet or JSON that the hub or its local cache has",
            fix="check name, split and network, or export the text as JSONL",
        ) from None


def _rows(rows: Iterable[Mapping[str, Any]], column: str | None, name: str) -> Iterator[Document]:
    for row in rows:
        key = column or next((key for key in _COLUMNS if key in row), None)
        if key is None or key not in row:
            raise SpecError(
                f"{name} has the columns {', '.join(map(str, row))}",
                expected="a column of text or of messages",
                fix=f"name it: {name}#COLUMN",
            )
        value = row[key]
        yield Document(text=value) if isinstance(value, str) else Document(messages=tuple(value))
