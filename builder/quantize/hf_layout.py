"""The unified Hugging Face layout: shards under Hugging Face names, for TensorRT-LLM's PyTorch backend and the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.checkpoint import Checkpoint
from builder.quantize.raw import RawTensor
from builder.quantize.safetensors_writer import Entries, SafetensorsWriter, entry_bytes
from builder.quantize.schemes import LayoutFacts
from builder.safetensors_index import INDEX_NAME, SINGLE_NAME
from builder.tokenizer_files import TOKENIZER_FILES
from trtllm_kit import __version__
from trtllm_kit.files import pretty_json

MAX_SHARD_BYTES = 5_000_000_000
PRODUCER = {"name": "trtllm-kit", "version": __version__}


class HfLayout:
    """Writes `model*.safetensors`, `config.json`, `hf_quant_config.json` where quantized, and the tokenizer's files."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        entries: Entries,
        facts: LayoutFacts,
        *,
        dtype: str,
        out: Path,
        max_shard_bytes: int,
    ) -> None:
        self._checkpoint, self._facts, self._dtype, self._out = checkpoint, facts, dtype, out
        self._sizes = {name: entry_bytes(*entry) for name, entry in entries.items()}
        self._files = _shard_names(self._sizes, max_shard_bytes)
        self._writers = {
            file: SafetensorsWriter(out / file, {name: entries[name] for name in entries if self._files[name] == file})
            for file in dict.fromkeys(self._files.values())
        }

    def write(self, name: str, raw: RawTensor) -> None:
        self._writers[self._files[name]].write(name, raw)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        if len(self._writers) > 1:
            index = {"metadata": {"total_size": sum(self._sizes.values())}, "weight_map": self._files}
            self._write_json(INDEX_NAME, index)
        self._write_json("config.json", self._config())
        if self._facts.quant_algo is not None:
            self._write_json("hf_quant_config.json", {"producer": PRODUCER, "quantization": self._quantization()})
        for name in TOKENIZER_FILES:
            if (self._checkpoint.path / name).is_file():
                shutil.copyfile(self._checkpoint.path / name, self._out / name)

    def abandon(self) -> None:
        for writer in self._writers.values():
            writer.abandon()

    def _config(self) -> dict[str, Any]:
        """The checkpoint's own config with the dtype of what was written, and how it was quantized."""
        raw = dict(self._checkpoint.config.raw)
        keys = [key for key in ("dtype", "torch_dtype") if key in raw] or ["torch_dtype"]
        raw.update(dict.fromkeys(keys, self._dtype))
        if self._facts.quant_algo is not None:
            raw["quantization_config"] = {
                "quant_method": "modelopt",
                "quant_algo": self._facts.quant_algo,
                "ignore": list(self._facts.exclude_modules or ()),
                "producer": PRODUCER,
            }
        return raw

    def _quantization(self) -> dict[str, Any]:
        return {
            "quant_algo": self._facts.quant_algo,
            "kv_cache_quant_algo": None,
            "exclude_modules": list(self._facts.exclude_modules or ()),
        }

    def _write_json(self, name: str, value: Any) -> None:
        (self._out / name).write_text(pretty_json(value), encoding="utf-8")


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
