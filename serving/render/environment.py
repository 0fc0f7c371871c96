"""The one Jinja environment: an undefined value is an error, the same input gives the same bytes."""

from __future__ import annotations

import functools
import importlib.resources
import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import model_repo_templates

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = model_repo_templates.__name__


@functools.cache
def environment() -> Environment:
    """Environment over `model_repo_templates`, made once. Jinja is imported only by who renders."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader(PACKAGE, package_path=""),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["pbtxt_string"] = pbtxt_string
    made.filters["tojson"] = _json
    made.filters["quote"] = shlex.quote
    return made


def pbtxt_string(text: str) -> str:
    """`text` as a quoted string of protobuf's text format."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _json(value: Any) -> str:
    """Plain JSON, which is YAML too; Jinja's own filter escapes `<`, `>` and `&` for HTML."""
    return json.dumps(value, ensure_ascii=False)


@functools.cache
def template_files(family: str) -> tuple[tuple[str, str], ...]:
    """Every file under `model_repo_templates/<family>`: its path below that folder and its text, in a stable order."""
    return tuple(sorted(_walk(importlib.resources.files(PACKAGE).joinpath(family), "")))


@functools.cache
def shared_files() -> tuple[tuple[str, str], ...]:
    """Files that every family's templates may import."""
    folder = importlib.resources.files(PACKAGE)
    found = ((entry.name, entry.read_text(encoding="utf-8")) for entry in folder.iterdir() if _is_template(entry))
    return tuple(sorted(found))


def _walk(folder: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_file():
            yield f"{prefix}{entry.name}", entry.read_text(encoding="utf-8")
        elif entry.name != "__pycache__":
            yield from _walk(entry, f"{prefix}{entry.name}/")


def _is_template(entry: Any) -> bool:
    return bool(entry.is_file() and entry.name.endswith(".j2"))
