"""The unified Hugging Face layout: shards under Hugging Face names, for TensorRT-LLM's PyTorch backend and the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.quantize.layouts.base import Entries
from builder.quantize.layouts.description import Description
from builder.quantize.layouts.ledger import Ledger
from builder.quantize.layouts.safetensors_writer import SafetensorsWriter, tensor_bytes
from builder.quantize.raw import RawTensor
from builder.safetensors_index import INDEX_NAME, SINGLE_NAME
from builder.tokenizer_files import TOKENIZER_FILES
from trtllm_kit.files import pretty_json

MAX_SHARD_BYTES = 5_000_000_000


class HfWriter:
    """Writes `model*.safetensors`, `config.json`, `hf_quant_config.json` where quantized, and the tokenizer's files."""

    def __init__(
        self,
        source: Path,
        entries: Entries,
        description: Description,
        *,
        dtype: str,
        out: Path,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        resume: bool = False,
    ) -> None:
        self._source, self._description, self._dtype, self._out = source, description, dtype, out
        tensors = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
        self._sizes = {name: tensor_bytes(*tensor) for name, tensor in tensors.items()}
        self._files = _shard_names(self._sizes, max_shard_bytes)
        self._ledger = Ledger(out, entries, resume=resume)
        self._writers = {
            file: SafetensorsWriter(out / file, {name: tensors[name] for name in names}, resume=resume)
            for file, names in _by_file(self._files).items()
        }
        self.entries, self.written = entries, self._ledger.flushed

    def write(self, name: str, raw: RawTensor) -> None:
        self._ledger.admit(name, raw)
        self._writers[self._files[name]].write(name, raw)

    def flush(self) -> None:
        self._ledger.flush(self._writers.values())

    def close(self) -> None:
        self._ledger.close()
        for writer in self._writers.values():
            writer.close()
        if len(self._writers) > 1:
            index = {"metadata": {"total_size": sum(self._sizes.values())}, "weight_map": self._files}
            self._write_json(INDEX_NAME, index)
        self._write_json("config.json", self._config())
        self._write_json("hf_quant_config.json", self._description.hf())
        self._write_json("quant_cfg.json", self._description.by_layer())
        for name in TOKENIZER_FILES:
            if (self._source / name).is_file():
                shutil.copyfile(self._source / name, self._out / name)

    def abandon(self) -> None:
        for writer in self._writers.values():
            writer.abandon()

    def _config(self) -> dict[str, Any]:
        """The checkpoint's own config with the dtype of what was written, and how it was quantized."""
        raw = dict(self._description.config.raw)
        keys = [key for key in ("dtype", "torch_dtype") if key in raw] or ["torch_dtype"]
        raw.update(dict.fromkeys(keys, self._dtype))
        quantization = self._description.hf_flat()
        return raw if quantization is None else {**raw, "quantization_config": quantization}

    def _write_json(self, name: str, value: Any) -> None:
        if value is not None:
            (self._out / name).write_text(pretty_json(value), encoding="utf-8")


def _by_file(files: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, file in files.items():
        found.setdefault(file, []).append(name)
    return found


def _shard_names(sizes: Mapping[str, int], max_shard_bytes: int) -> dict[str, str]:
    """The file of each tensor: filled in order, a new one where the next tensor would pass the bound."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return dict.fromkeys(shards[0], SINGLE_NAME)
    return {
        name: f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        for number, names in enumerate(shards, start=1)
        for name in names
    }
