"""Files that people write: strict models, and every wrong key at once with the nearest right one."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trtllm_kit.errors import SpecError


class Strict(BaseModel):
    """A group of keys: unknown ones are refused, no value is bent to a type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=False, protected_namespaces=())


@dataclass(frozen=True, kw_only=True)
class YamlFile:
    """A kind of file that people write, for what is said when one cannot be read."""

    what: str  # "spec"
    name: str  # as it is usually called
    docs: str
    least: str  # the key that it needs at least
    write: str  # the command that writes one

    def read(self, path: Path) -> tuple[str, dict[str, Any]]:
        """The text and its keys, not checked yet. SpecError when it is not there, no text, no YAML, or without keys."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise SpecError(
                f"no {self.what} at {path}", expected=f"a {self.name}", fix=f"write one with `{self.write}`"
            ) from None
        except (UnicodeDecodeError, IsADirectoryError) as error:
            raise SpecError(f"{path} is not a text file: {error}", expected=f"a {self.name}") from None
        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SpecError(f"{path} is not YAML: {error}", expected=f"keys and values, see {self.docs}") from None
        if not isinstance(tree, dict):
            raise self.without_keys(path)
        return text, tree

    def without_keys(self, path: Path) -> SpecError:
        """A file that holds something else than keys."""
        return SpecError(f"{path} holds no keys", expected=f"at least `{self.least}:`", fix=f"see {self.docs}")


def problems(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line for each wrong key; what a union's members say of the same key is joined."""
    return [line for _, line in located_problems(error, root)]


def located_problems(error: ValidationError, root: type[BaseModel]) -> list[tuple[tuple[str, ...], str]]:
    """As `problems`, each with the path of its key."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for item in error.errors():
        path = tuple(_key(item["loc"], root))
        lines.setdefault(path, []).append(_problem(".".join(path), item, root))
    return [(path, messages[0] if len(messages) == 1 else _joined(messages)) for path, messages in lines.items()]


def group(key: str, parent: type[BaseModel]) -> type[BaseModel] | None:
    """The model of a key that holds further keys."""
    field = parent.model_fields.get(key)
    annotation = field.annotation if field else None
    return annotation if _is_model(annotation) else None


def _joined(messages: list[str]) -> str:
    heads, tail = [message.rpartition(" (got ")[0] for message in messages], messages[0].rpartition(" (got ")[2]
    return heads[0] + "".join(f", or {head.partition(': ')[2]}" for head in heads[1:]) + f" (got {tail}"


def _key(location: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """The part of a location that a person wrote: pydantic names the members of a union as well."""
    inside: Any = root
    kept: list[str] = []
    for part in location:
        inside, written = _step(inside, part)
        kept += [str(part)] if written else []
    return kept


def _problem(key: str, item: Any, root: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), _known_keys(item["loc"][:-1], root), n=1, cutoff=0.6)
        return f"unknown key '{key}'" + (f", did you mean '{near[0]}'?" if near else "")
    if item["type"] == "missing":
        return f"'{key}' is missing"
    return f"'{key}': {item['msg']} (got {item['input']!r})"


def _known_keys(parents: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    inside: Any = root
    for part in parents:
        inside, _ = _step(inside, part)
    return list(inside.model_fields) if _is_model(inside) else []


def _step(annotation: Any, part: int | str) -> tuple[Any, bool]:
    """What is below `part` of a location, and whether `part` is a key or place that a person wrote."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _step(members[0], part)
    if origin in (Union, UnionType):
        return next((member for member in members if part in _tags(member)), None), False
    if origin in (list, dict):
        return members[-1], True
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return (field.annotation if field else None), True
    return None, False


def _tags(member: Any) -> tuple[Any, ...]:
    """How a location may name this member of a union: by its `kind`, or by its class."""
    kind = member.model_fields.get("kind") if _is_model(member) else None
    return (getattr(member, "__name__", ""), *(get_args(kind.annotation) if kind else ()))


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
