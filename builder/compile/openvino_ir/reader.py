"""Safetensors shards as memory maps: a constant of the IR may point into one, so no weight is copied on its way."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.model_config import ModelConfig
from trtllm_kit.errors import SpecError
from trtllm_kit.files import read_json

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ROLES = ("weight", "weight_scale", "weight_scale_inv", "weight_scale_2", "pre_quant_scale")
_FOREIGN = ("awq", "compressed-tensors")
_NUMPY = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "uint16",  # numpy has no bfloat16: its bits
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "uint8",  # its bits
    "F8_E5M2": "uint8",  # its bits
}


@dataclass(frozen=True, kw_only=True)
class RawTensor:
    """A tensor as stored. `data` has the stored shape; dtypes that numpy lacks are shown as their bits."""

    dtype: str  # safetensors' name: "BF16", "I8", ...
    data: Any  # numpy array, read-only view of the file
    mapped: bool = True  # false: in memory, made from what the file holds

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, outermost first."""
        return tuple(int(size) for size in self.data.shape)

    def float32(self) -> Any:
        """A float32 numpy array of the same shape; exact for every dtype of at most 32 bits that holds numbers."""
        import numpy as np

        if self.dtype == "BF16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return self.data.astype(np.float32, copy=False)


class Tensors:
    """All tensors of a checkpoint folder by name. Opening maps the shards; reading a tensor copies nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tensors: dict[str, RawTensor] = {}
        for file in _shards(folder):
            self._tensors.update(_map_file(file))

    def __getitem__(self, name: str) -> RawTensor:
        """The tensor; SpecError where the checkpoint has none of that name."""
        try:
            return self._tensors[name]
        except KeyError:
            raise SpecError(
                f"the checkpoint has no tensor '{name}': {self._folder}",
                expected="every tensor that its config.json implies",
                fix="fetch or quantize the checkpoint again",
            ) from None

    def find(self, name: str) -> RawTensor | None:
        """The tensor, or None where the checkpoint has none of that name."""
        return self._tensors.get(name)

    def parts(self, module: str) -> dict[str, RawTensor]:
        """What stands for the weight of a linear, by the last part of the names."""
        return {role: self._tensors[name] for role in _ROLES if (name := f"{module}.{role}") in self._tensors}


class ForeignTensors(Tensors):
    """A checkpoint of AutoAWQ or compressed-tensors: what they pack is read in the kit's own formats."""

    def __init__(self, folder: Path) -> None:
        from builder.quantize.reader import open_checkpoint

        super().__init__(folder)
        self._reader = open_checkpoint(folder)

    def parts(self, module: str) -> dict[str, RawTensor]:
        stored = super().parts(module)
        if "weight" in stored:
            return stored
        return {role: _as_stored(raw.dtype, raw.array) for role, raw in self._reader.parts(module).items()}


def open_tensors(folder: Path, config: ModelConfig) -> Tensors:
    """The tensors of the checkpoint in `folder`."""
    method = (config.raw.get("quantization_config") or {}).get("quant_method")
    return ForeignTensors(folder) if method in _FOREIGN else Tensors(folder)


def _as_stored(dtype: str, bits: Any) -> RawTensor:
    return RawTensor(dtype=dtype, data=bits.view(_NUMPY[dtype]), mapped=False)


def _shards(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.is_file():
        return [folder / _SINGLE]
    weight_map = read_json(index, "the index of the shards").get("weight_map", {})
    return [folder / name for name in sorted(set(weight_map.values()))]


def _map_file(file: Path) -> Iterator[tuple[str, RawTensor]]:
    import numpy as np

    try:
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(header_bytes))
        body = np.memmap(file, np.uint8, "r", 8 + header_bytes)
        for name, meta in header.items():
            if name != "__metadata__":
                yield name, _view(body, meta)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise SpecError(
            f"{file} cannot be read as safetensors: {error}",
            expected="a whole safetensors file",
            fix="fetch or quantize the checkpoint again",
        ) from None


def _view(body: Any, meta: Mapping[str, Any]) -> RawTensor:
    dtype, shape, (start, end) = meta["dtype"], meta["shape"], meta["data_offsets"]
    import numpy as np

    if dtype not in _NUMPY:
        raise ValueError(f"dtype {dtype} is unknown")
    numpy_dtype = np.dtype(_NUMPY[dtype])
    if end > body.size or end - start != math.prod(shape) * numpy_dtype.itemsize:
        raise ValueError("a tensor lies beyond the end of the file or has a wrong length")
    # A plain ndarray over the map: np.memmap's own view machinery is slow and warns at pickling.
    return RawTensor(dtype=dtype, data=np.frombuffer(body[start:end], numpy_dtype).reshape(shape))
