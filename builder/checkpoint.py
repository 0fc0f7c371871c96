"""A Hugging Face checkpoint on disk that passed every check of `fetch`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.model_config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies: which file, which safetensors dtype ("BF16", "F16", "F32", "I8", ...), which shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # byte offset of its data in `file`
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Prequantized:
    """How a checkpoint was quantized before the kit saw it."""

    method: str  # whose form it is: "modelopt", "fp8", "compressed-tensors", "awq"
    precision: str  # what it comes to: a row of builder.quantize.schemes.SCHEMES, or "mixed"
    layers: Mapping[str, str] = field(default_factory=dict)  # of "mixed": module name -> precision
    group_size: int | None = None
    kv_cache: str = "none"  # "none" | "fp8" | "int8" | "nvfp4"
    unserved: Mapping[str, str] = field(default_factory=dict)  # runtime -> why it cannot take the checkpoint as it is


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder of safetensors shards, config and tokenizer, checked and fingerprinted."""

    source: str  # what the user wrote: org/name@revision, or a folder
    path: Path
    config: ModelConfig
    tensors: Mapping[str, TensorEntry] = field(repr=False)  # by Hugging Face name, only those that the model needs
    files: Mapping[str, str] = field(repr=False)  # relative name -> sha256 of the files that a build reads
    digest: str  # sha256 over `files`
    quantized: Prequantized | None = None  # None: not yet
    revision: str | None = None  # commit on the hub that `source` resolved to; None for a folder
