"""Render in memory, lint, compare with the folder, write what differs: a repository is never half right on disk."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from builder.plan import BuildPlan
from profiles.triton_contract import engine_contract, llmapi_contract
from serving.render.environment import environment, shared_files, template_files
from serving.render.lint import lint
from serving.render.values import FAMILIES, RepositoryValues, data_types, values_of
from trtllm_kit.files import disk_errors, fingerprint, write_text_atomic

_TEMPLATE = ".j2"


@dataclass(frozen=True, kw_only=True)
class Change:
    """What `write` does to one file. `identical` files are not touched."""

    path: str
    action: Literal["create", "identical", "differs", "remove"]


def render(plan: BuildPlan) -> dict[str, str]:
    """Every file of the plan's model repository, path -> text, linted; nothing is touched.

    Raises SpecError for a plan whose build and serving values contradict each other.
    """
    return render_values(values_of(plan))


class RepositoryRenderer:
    """Rendering as a stage of the build."""

    def inputs(self, plan: BuildPlan) -> dict[str, Any]:
        """Everything that the repository depends on: the values, and the text of what they are placed in.

        Raises SpecError as `render` does, so a plan that cannot be served is refused before it is built.
        """
        values = values_of(plan)
        texts = [*shared_files(), *template_files(values.family)]
        return {
            "values": {name: value for name, value in vars(values).items() if name != "contract"},
            "contract": _contract_digest(values.family, plan.trtllm_version, tuple(data_types(plan).items())),
            "templates": fingerprint(texts),
        }

    def render_into(self, plan: BuildPlan, out: Path) -> None:
        """Fill `out` with the model repository."""
        write(render(plan), out)


@functools.cache
def _contract_digest(family: str, trtllm_version: str, types: tuple[tuple[str, str], ...]) -> str:
    """Of every tensor and parameter of the contract; a matrix asks for the same one in every cell."""
    contract = engine_contract(trtllm_version, dict(types)) if family == "engine" else llmapi_contract()
    return fingerprint({model: asdict(rows) for model, rows in contract.items()})


def render_values(values: RepositoryValues) -> dict[str, str]:
    """As `render`, from values that are already settled."""
    names = dict(vars(values))
    files = dict(_render_file(values.family, path, text, names) for path, text in template_files(values.family))
    lint(files, values)
    return files


def compare(files: Mapping[str, str], out: Path) -> list[Change]:
    """What `write` would do, in path order."""
    changes = [Change(path=path, action=_against_disk(text, out / path)) for path, text in files.items()]
    changes += [Change(path=path, action="remove") for path in _ours() - files.keys() if (out / path).is_file()]
    return sorted(changes, key=lambda change: change.path)


def write(files: Mapping[str, str], out: Path) -> list[Change]:
    """Bring the folder `out` to `files`; unchanged files keep their times and a user's own files stay.

    A file under a name that the other family would render is stale and goes. Raises HostError when `out` cannot be
    written.
    """
    changes = compare(files, out)
    for change in changes:
        if change.action in ("create", "differs"):
            write_text_atomic(out / change.path, files[change.path])
        elif change.action == "remove":
            _remove(out, change.path)
    return changes


def _render_file(family: str, path: str, text: str, names: Mapping[str, Any]) -> tuple[str, str]:
    if not path.endswith(_TEMPLATE):
        return path, text
    rendered = environment().get_template(f"{family}/{path}").render(names)
    return path.removesuffix(_TEMPLATE), rendered.strip("\n") + "\n"


def _against_disk(text: str, path: Path) -> Literal["create", "identical", "differs"]:
    if not path.is_file():
        return "create"
    return "identical" if path.read_bytes() == text.encode() else "differs"


def _ours() -> set[str]:
    """Every path that any family renders."""
    return {path.removesuffix(_TEMPLATE) for family in set(FAMILIES.values()) for path, _ in template_files(family)}


def _remove(out: Path, path: str) -> None:
    """Remove a file and the folders that it leaves empty."""
    with disk_errors(out / path):
        (out / path).unlink()
        for parent in Path(path).parents:
            if parent == Path() or any((out / parent).iterdir()):
                break
            (out / parent).rmdir()
