"""Axes, `include` and `exclude` → the settings of each cell. What they come to is resolved in `cells`."""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from serving.nightly.spec import Nightly
from trtllm_kit import spec as specs
from trtllm_kit.errors import SpecError
from trtllm_kit.strict import group

Settings = dict[str, Any]
"""Dotted key of the spec → value."""

SHORT = {"sku": "target.sku", "tp_size": "target.tp_size", "pp_size": "target.pp_size"}
"""Axes that have a shorter name than their key. `model`, `precision`, `runtime` and `trtllm_version` are keys."""


def settings_of(nightly: Nightly) -> list[Settings]:
    """One row for each cell: the product of the axes less what `exclude` names by axes, then `include`.

    A row that comes twice is one cell. No axes and no `include`: the base alone. Raises SpecError for a key that the
    spec does not have.
    """
    spec = nightly.spec
    axes = _long(spec.matrix, "matrix")
    excluded = [_long(row, f"exclude.{place}") for place, row in enumerate(spec.exclude) if isinstance(row, dict)]
    included = [_long(row, f"include.{place}") for place, row in enumerate(spec.include)]
    product = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    rows = [row for row in product if not any(_covers(part, row) for part in excluded)] if axes or not included else []
    return _once([*rows, *included])


def base_of(nightly: Nightly) -> dict[str, Any]:
    """The tree that every cell starts from, the paths in it absolute."""
    base = nightly.spec.base
    if isinstance(base, str):
        return specs.read_tree(nightly.folder / base)
    tree = copy.deepcopy(base)
    specs.anchor(tree, nightly.folder)
    return tree


def tree_of(base: Mapping[str, Any], settings: Settings, nightly: Nightly) -> dict[str, Any]:
    """The base with a cell's settings put in; what they name beside nightly.yaml is made absolute."""
    tree = copy.deepcopy(dict(base))
    for key, value in settings.items():
        specs.put(tree, key, copy.deepcopy(value))
    specs.anchor(tree, nightly.folder)
    return tree


def long_key(key: str, where: str) -> str:
    """A key of the spec, from an axis' short name; SpecError with the nearest one for a key that does not exist."""
    dotted = SHORT.get(key, key)
    model: type[Any] = specs.Spec
    for part in dotted.split("."):
        if part not in model.model_fields:
            near = next(iter(difflib.get_close_matches(key, _all_keys(), n=1)), None)
            raise SpecError(
                f"{where}: '{key}' is no key of the spec" + (f", did you mean '{near}'?" if near else ""),
                expected="model, precision, sku, runtime, trtllm_version, or a dotted key of docs/spec.md",
                fix="correct it in the matrix",
            )
        inner = group(part, model)
        if inner is None:
            break  # a value, or a table of the user's own keys
        model = inner
    return dotted


def _long(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {long_key(key, where): value for key, value in row.items()}


def _covers(part: Mapping[str, Any], row: Settings) -> bool:
    """Whether a row has all that a partial row says; a list stands for any of its values."""
    return all(
        key in row and row[key] in (value if isinstance(value, list) else [value]) for key, value in part.items()
    )


def _once(rows: list[Settings]) -> list[Settings]:
    return list({repr(sorted(row.items())): row for row in rows}.values())


def _all_keys() -> list[str]:
    return [*SHORT, *_keys(specs.Spec, "")]


def _keys(model: type[Any], prefix: str) -> Iterator[str]:
    for name in model.model_fields:
        inner = group(name, model)
        if inner is None:
            yield prefix + name
        else:
            yield from _keys(inner, f"{prefix}{name}.")
