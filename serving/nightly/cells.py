"""Each cell of the matrix with its identifier and all that is decided about it, or why it cannot be built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.plan import BuildPlan
from builder.quantize.schemes import MIXED, find_scheme
from builder.resolve import resolve
from profiles import skus, versions
from serving.nightly import matrix
from serving.nightly.checkpoints import Checkpoints
from serving.nightly.selector import matches, nearest
from serving.nightly.spec import Nightly
from serving.nightly.stack import Stack
from trtllm_kit import spec as specs
from trtllm_kit.errors import FitError, IncompatibleError, KitError, SpecError
from trtllm_kit.identifier import BuildIdentifier, model_slug

REFUSALS = (SpecError, FitError, IncompatibleError)
"""What the resolver says of a combination that cannot be: a hole of the matrix, and no failure."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell. Where `plan` is None, `error` says why, and `broken` whether that is a failure."""

    identifier: str
    settings: matrix.Settings
    sku: str
    tree: Mapping[str, Any]  # the spec with axes and overrides applied, checked
    plan: BuildPlan | None = None
    error: KitError | None = None
    broken: bool = False


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All cells in the order of the matrix, and what a person should look at."""

    cells: tuple[Cell, ...]
    warnings: tuple[str, ...]


def resolve_cells(nightly: Nightly, checkpoints: Checkpoints, stack: Stack) -> Matrix:
    """Resolve every cell; overrides and globs of `exclude` match the identifier as it is without overrides.

    Raises SpecError for keys that are wrong and for two cells of one identifier: nothing of such a matrix is built.
    """
    base = matrix.base_of(nightly)
    globs = [row for row in nightly.spec.exclude if isinstance(row, str)]
    used: set[str] = set()
    first: list[str] = []
    cells: list[Cell] = []
    for settings in matrix.settings_of(nightly):
        cell = _resolve(matrix.tree_of(base, settings, nightly), settings, checkpoints, stack)
        first.append(cell.identifier)
        excluding = [glob for glob in globs if matches(cell.identifier, glob)]
        used.update(excluding)
        if excluding:
            continue
        changed, selected = _overridden(nightly, cell.identifier, settings)
        used.update(selected)
        if selected:
            cell = _resolve(matrix.tree_of(base, changed, nightly), settings, checkpoints, stack)
        cells.append(cell)
    _refuse_twins(cells)
    written = [*globs, *(glob for override in nightly.spec.overrides for glob in override.globs)]
    return Matrix(cells=tuple(cells), warnings=tuple(_unused(written, used, first)))


def _overridden(nightly: Nightly, identifier: str, settings: matrix.Settings) -> tuple[matrix.Settings, set[str]]:
    """Settings with every override that selects the identifier, later ones over earlier ones; the globs that did."""
    changed, selected = dict(settings), set()
    for place, override in enumerate(nightly.spec.overrides):
        found = [glob for glob in override.globs if matches(identifier, glob)]
        selected.update(found)
        if found:
            changed |= {matrix.long_key(key, f"overrides.{place}"): value for key, value in override.set.items()}
    return changed, selected


def _resolve(tree: dict[str, Any], settings: matrix.Settings, checkpoints: Checkpoints, stack: Stack) -> Cell:
    spec = specs.parse(tree, origin=_words(settings))
    _check_names(spec)
    known: dict[str, Any] = {"settings": settings, "tree": tree, "sku": spec.target.sku}
    try:
        checkpoint = checkpoints.get(spec.model, trust_remote_code=spec.trust_remote_code)
    except KitError as error:
        return Cell(identifier=_likely(spec), error=error, broken=True, **known)
    try:
        plan = stack.pinned(resolve(spec, checkpoint))
    except KitError as error:
        return Cell(identifier=_likely(spec), error=error, broken=not isinstance(error, REFUSALS), **known)
    return Cell(identifier=str(plan.identifier), plan=plan, **{**known, "sku": plan.sku.id})


def _check_names(spec: specs.Spec) -> None:
    """SpecError for a name that does not exist: that is a slip of the pen in the matrix, and no hole of it."""
    if spec.target.sku != "auto":
        skus.find(spec.target.sku)
    if spec.precision not in ("auto", MIXED):
        find_scheme(spec.precision)
    if spec.trtllm_version != "auto":
        versions.find(spec.trtllm_version)
    BuildIdentifier.parse(_likely(spec))


def _likely(spec: specs.Spec) -> str:
    """The identifier of a cell that could not be resolved: what is written, with `auto` where it is left open."""
    tp, pp = (size if isinstance(size, int) else 1 for size in (spec.target.tp_size, spec.target.pp_size))
    parts = {"precision": spec.precision, "sku": spec.target.sku, "runtime": spec.runtime}
    plain = {name: re.sub(r"[^a-z0-9_]+", "_", text.lower()) or "none" for name, text in parts.items()}
    return str(BuildIdentifier(model=spec.name or model_slug(spec.model), tp=tp, pp=pp, **plain))


def _refuse_twins(cells: Sequence[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.identifier, cell)
        if other is not cell:
            raise SpecError(
                f"two cells are {cell.identifier}: {_words(other.settings)}, and {_words(cell.settings)}",
                expected="one identifier for each cell: refs, logs and reports are kept by it",
                fix="give one of them another `name:`, as an axis, in `include` or by an override",
            )


def _unused(written: Sequence[str], used: set[str], identifiers: Sequence[str]) -> Iterator[str]:
    for glob in dict.fromkeys(written):
        if glob not in used:
            near = nearest(glob, identifiers)
            yield f"'{glob}' matches no cell" + (f"; the nearest is {near}" if near else "")


def _words(settings: matrix.Settings) -> str:
    return "the cell " + (", ".join(f"{key} {value}" for key, value in settings.items()) or "of the base alone")
