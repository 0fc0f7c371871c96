"""`nightly.yaml`: which cells there are, who builds them, when one is promoted, and what is told about the night."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from builder.depot.depot import default_url
from builder.store import Store
from serving.nightly.ab.rule import Rule
from serving.nightly.executors.settings import ExecutorSettings, LocalSettings
from trtllm_kit.errors import SpecError
from trtllm_kit.files import fingerprint
from trtllm_kit.strict import Strict, YamlFile, located_problems

NIGHTLY_NAME = "nightly.yaml"
_FILE = YamlFile(
    what="matrix", name=NIGHTLY_NAME, docs="docs/nightly.md", least="base", write="trtllm-kit nightly init"
)

Positive = Annotated[float, Field(gt=0)]
Globs = str | list[str]
Stage = Literal[
    "default", "fetch", "quantize", "evaluate", "compile", "render", "package", "publish", "pull", "compare"
]


class Override(Strict):
    """Keys of the spec that are other for the cells whose identifier matches."""

    select: Globs
    set: Annotated[dict[str, Any], Field(min_length=1)]  # by dotted key

    @property
    def globs(self) -> list[str]:
        return [self.select] if isinstance(self.select, str) else self.select


def _four_hours() -> dict[Stage, Positive]:
    return {"default": 240.0}


class Limits(Strict):
    """What ends a cell that hangs."""

    stage_minutes: dict[Stage, Positive] = Field(default_factory=_four_hours)


class ReportSettings(Strict):
    """Where the night's report goes beside the depot."""

    folder: str | None = None
    prometheus: str | None = None  # file of node_exporter's textfile collector
    webhook: str | None = None  # URL, or ${NAME} of the environment variable that holds it


class NightlySpec(Strict):
    """A whole `nightly.yaml`."""

    depot: str | None = None  # URL; None: $TRTLLM_KIT_DEPOT, else a folder in the local store
    base: str | dict[str, Any] = Field(default_factory=dict)  # a spec, or the file of one
    matrix: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    include: list[dict[str, Any]] = Field(default_factory=list)
    exclude: list[str | dict[str, Any]] = Field(default_factory=list)
    overrides: list[Override] = Field(default_factory=list)
    limits: Limits = Limits()
    executor: ExecutorSettings = LocalSettings()
    promotion: Rule = Rule()
    report: ReportSettings = ReportSettings()
    keep_days: Positive = 14.0


@dataclass(frozen=True, kw_only=True)
class Nightly:
    """A checked `nightly.yaml` and where it lies."""

    spec: NightlySpec
    path: Path  # absolute; what the spec names beside it is taken from its folder

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def fingerprint(self) -> str:
        """Of what is written in it."""
        return fingerprint(self.spec.model_dump(mode="json"))

    def beside(self, name: str | None) -> Path | None:
        """A file that the matrix names, taken from where the matrix lies."""
        return None if name is None else self.folder / Path(name).expanduser()

    def depot_url(self, store: Store) -> str:
        """The file's, else the environment's, else a folder in the local store; a relative folder lies beside the
        file."""
        url = self.spec.depot or default_url(store)
        return url if "://" in url else str((self.folder / Path(url).expanduser()).absolute())


def load(path: Path) -> Nightly:
    """Read and check a file; SpecError names every wrong key at once, with its line and the nearest right one."""
    path = path.absolute()
    text, tree = _read(path)
    executor = tree.get("executor")
    if isinstance(executor, dict):
        executor.setdefault("kind", "local")
    _fill_empty(tree)
    try:
        return Nightly(spec=NightlySpec.model_validate(tree), path=path)
    except ValidationError as error:
        lines = dict(_lines(text))
        wrong = [f"{path.name}:{_line(lines, key)}: {words}" for key, words in located_problems(error, NightlySpec)]
        raise SpecError(
            "\n  ".join(wrong), expected="the keys and types of docs/nightly.md", fix="correct the lines above"
        ) from None


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    text, tree = _FILE.read(path)
    if not all(isinstance(key, str) for key in tree):
        raise _FILE.without_keys(path)
    return text, tree


def _fill_empty(tree: dict[str, Any]) -> None:
    """A group whose keys are all commented out reads as null and means the group's defaults."""
    for key in [key for key, value in tree.items() if value is None and key in NightlySpec.model_fields]:
        del tree[key]


def _lines(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Line of every key, by its path; entries of a list count from 0."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pending: list[tuple[tuple[str, ...], Any]] = [((), root)] if root is not None else []
    while pending:
        path, node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            children = [(key.value, key.start_mark.line, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            children = [(str(place), value.start_mark.line, value) for place, value in enumerate(node.value)]
        else:
            continue
        for name, line, value in children:
            yield (*path, str(name)), line + 1
            pending.append(((*path, str(name)), value))


def _line(lines: Mapping[tuple[str, ...], int], key: tuple[str, ...]) -> int:
    """The key's own line, or that of the nearest group around it that is written."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)
