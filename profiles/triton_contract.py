"""What each TensorRT-LLM release's Triton models accept and return: tensors, parameters and ensemble maps, as data.

Release by release upstream renamed inputs (`random_seed` became `seed` with 0.20), added outputs and moved parameters;
templates that loop over these rows follow without a branch. Data and sources: `data/triton_contract.json`.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from trtllm_kit.errors import SpecError

_ROW = re.compile(r"(?P<dtype>\$?\w+) \[(?P<dims>[-\d,]+)\](?P<flags>( optional| ragged| scalar)*)")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output of a Triton model; `dims` without the batch dimension, -1 for any size."""

    name: str
    dtype: str  # "TYPE_INT32"; "$logits" and the like until `with_types` settles it
    dims: tuple[int, ...]
    optional: bool
    ragged: bool
    scalar: bool  # dims [1] reshaped to [] for the backend

    @property
    def layout(self) -> tuple[str, tuple[int, ...]]:
        """What two ends of one wire must agree on."""
        return self.dtype, self.dims


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the ensemble; maps go from the model's tensor to the ensemble's."""

    model: str
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """Everything that one model's `config.pbtxt` must declare."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: tuple[str, ...]
    steps: tuple[Step, ...] = ()

    def with_types(self, types: Mapping[str, str]) -> ModelContract:
        """The same contract with every `$name` data type replaced from `types` (`{"logits": "TYPE_FP32"}`)."""

        def settle(tensor: Tensor) -> Tensor:
            return replace(tensor, dtype=types[tensor.dtype[1:]]) if tensor.dtype.startswith("$") else tensor

        return replace(self, inputs=tuple(map(settle, self.inputs)), outputs=tuple(map(settle, self.outputs)))


Contract = Mapping[str, ModelContract]
"""Models of one repository by name, in the order in which they are rendered."""


def engine_contract(trtllm_version: str, types: Mapping[str, str]) -> Contract:
    """Contract of the engine models for a TensorRT-LLM release: its own layout or the closest one before it.

    `types` gives the data types that follow from the engine: `logits`, `encoder_input_features`,
    `prompt_embedding_table`. Raises SpecError for a version that is older than every layout, or is no version.
    """
    layouts = _document()["engine"]
    wanted = _release(trtllm_version)
    known = [since for since in layouts if _release(since) <= wanted]
    if not known:
        raise SpecError(
            f"no Triton model layout is known for TensorRT-LLM {trtllm_version}",
            expected=f"{next(iter(layouts))} or newer",
            fix="set `trtllm_version: auto`, or a newer version",
        )
    return _contract(f"engine/{max(known, key=_release)}", tuple(sorted(types.items())))


def llmapi_contract() -> Contract:
    """Contract of the one model of the `llmapi` layout; the same for every release that has it."""
    return _contract("llmapi", ())


def engine_layouts() -> tuple[str, ...]:
    """First release of each known engine layout, oldest first."""
    return tuple(_document()["engine"])


@functools.cache
def _document() -> Any:
    text = importlib.resources.files("profiles").joinpath("data/triton_contract.json").read_text(encoding="utf-8")
    return json.loads(text)


def _release(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise SpecError(
            f"'{version}' is not a TensorRT-LLM version",
            expected="a version such as 1.2.1",
            fix="correct `trtllm_version`, or set it to auto",
        )
    return int(match[1]), int(match[2])


@functools.cache
def _contract(place: str, types: tuple[tuple[str, str], ...]) -> Contract:
    """The layout at `place` of the document, made once: a matrix asks for the same one in every cell."""
    layout = _document()
    for key in place.split("/"):
        layout = layout[key]
    return MappingProxyType({name: _model(rows).with_types(dict(types)) for name, rows in layout.items()})


def _model(rows: Mapping[str, Any]) -> ModelContract:
    return ModelContract(
        inputs=tuple(_tensor(name, row) for name, row in rows["inputs"].items()),
        outputs=tuple(_tensor(name, row) for name, row in rows["outputs"].items()),
        parameters=tuple(rows["parameters"]),
        steps=tuple(Step(**step) for step in rows.get("steps", ())),
    )


def _tensor(name: str, row: str) -> Tensor:
    match = _ROW.fullmatch(row)
    if match is None:
        raise ValueError(f"triton_contract.json: {name}: {row}")
    dtype, flags = match["dtype"], match["flags"].split()
    return Tensor(
        name=name,
        dtype=dtype if dtype.startswith("$") else f"TYPE_{dtype}",
        dims=tuple(int(size) for size in match["dims"].split(",")),
        optional="optional" in flags,
        ragged="ragged" in flags,
        scalar="scalar" in flags,
    )
