"""Checkpoints whose linears lie under their Hugging Face names with ModelOpt's suffixes, or without any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from builder.families import config_of
from builder.quantize.formats import Format, Role
from builder.quantize.raw import RawTensor, TensorSource
from builder.quantize.reader.base import CheckpointReader, unknown_format
from builder.quantize.reader.recognise import recognise
from builder.safetensors_index import read_tensors
from trtllm_kit.errors import SpecError
from trtllm_kit.files import read_json

ROLES: tuple[Role, ...] = get_args(Role)


class HfReader(CheckpointReader):
    layout = "hf"

    def __init__(self, folder: Path, raw: Mapping[str, Any]) -> None:
        super().__init__(folder, config_of(raw), _quantization(folder, raw))
        self.tensors = read_tensors(folder)
        self._source = TensorSource(self.tensors)

    def format(self, module: str) -> Format:
        entries = {role: self.tensors[name] for role, name in self._part_names(module).items()}
        found = {role: (entry.dtype, entry.shape) for role, entry in entries.items()}
        rows, columns = self.shapes[f"{module}.weight"]
        known = recognise(rows, columns, found)
        if known is None:
            raise unknown_format(self.folder, module, found)
        return known

    def part(self, module: str, role: Role) -> RawTensor:
        return self.raw(f"{module}.{role}")

    def stores(self, name: str) -> bool:
        return name in self.tensors

    def raw(self, name: str) -> RawTensor:
        if name not in self.tensors:
            raise SpecError(
                f"{self.folder} has no tensor {name}",
                expected="every tensor that its config.json implies",
                fix="fetch or quantize the checkpoint again",
            )
        return self._source.read(name)

    def _part_names(self, module: str) -> dict[Role, str]:
        return {role: name for role in ROLES if (name := f"{module}.{role}") in self.tensors}


def _quantization(folder: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of it: loaders believe the file before they believe the config."""
    if (folder / "hf_quant_config.json").is_file():
        found = read_json(folder / "hf_quant_config.json", "the quantization config")
        return {**(found.get("quantization") or {}), "producer": found.get("producer")}
    flat = raw.get("quantization_config") or {}
    scheme = flat.get("kv_cache_scheme")
    return {**flat, "kv_cache_quant_algo": "FP8" if isinstance(scheme, Mapping) else scheme}
