"""A model for planning, from whatever names it: a folder, a config.json, or the name of a public model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles import model_shape, weights
from profiles.model_shape import ModelShape
from profiles.weights import Weights
from trtllm_kit.errors import SpecError
from trtllm_kit.files import read_json


@dataclass(frozen=True, kw_only=True)
class Model:
    """What planning needs to know. `weights` are None where there are no safetensors headers to read."""

    name: str
    shape: ModelShape
    weights: Weights | None


def read_model(source: str) -> Model:
    """Nothing is downloaded: an id of the hub is looked up among the public models that the kit knows."""
    path = Path(source).expanduser()
    if path.is_dir():
        name = path.resolve().name
        shape = ModelShape.from_config(_config(path / "config.json"), name)
        return Model(name=name, shape=shape, weights=_weights(path, shape))
    if path.is_file():
        name = path.resolve().parent.name if path.name == "config.json" else path.stem
        return Model(name=name, shape=ModelShape.from_config(_config(path), name), weights=None)
    found = model_shape.find(source)
    return Model(name=found.name, shape=found, weights=None)


def _config(path: Path) -> Mapping[str, Any]:
    tree = read_json(path, "config.json")
    if not isinstance(tree, dict):
        raise SpecError(f"{path} is no object", expected="a Hugging Face config.json", fix="fetch it again")
    return tree


def _weights(folder: Path, shape: ModelShape) -> Weights | None:
    if not any(folder.glob("*.safetensors")):
        return None
    from builder.safetensors_index import read_tensors

    return weights.of_tensors(read_tensors(folder), shape)
