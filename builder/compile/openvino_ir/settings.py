"""`engine.json`: what the serving side must know of a cpu engine before it opens the model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trtllm_kit.errors import IncompatibleError
from trtllm_kit.files import pretty_json, read_json, write_text_atomic

SETTINGS_NAME = "engine.json"
TOKENS_PER_BLOCK = 32
"""Page size of the paged KV cache; fixed by OpenVINO's CPU plugin."""


@dataclass(frozen=True, kw_only=True)
class CpuEngineSettings:
    """Limits and numerics of one cpu engine. Counts are of requests, tokens and KV blocks."""

    max_batch_size: int
    max_num_tokens: int  # in one step, over all requests
    max_seq_len: int  # prompt and output of one request
    num_kv_blocks: int  # pages of TOKENS_PER_BLOCK tokens; one of them is never given to a request
    enable_block_reuse: bool
    kv_cache_precision: str  # "f32", "f16", "u8"
    inference_precision: str  # "f32"
    dynamic_quantization_group_size: int  # 0: activations are never quantized
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    openvino_version: str
    weights: Mapping[str, str] = field(default_factory=dict)  # what OpenVINO does with each kind: {"int8": "native"}

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens that requests may hold at once. A request that needs more would never be scheduled."""
        return (self.num_kv_blocks - 1) * TOKENS_PER_BLOCK

    def write(self, folder: Path) -> None:
        """Write `engine.json` into `folder`."""
        write_text_atomic(folder / SETTINGS_NAME, pretty_json(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> CpuEngineSettings:
        """Settings of the engine in `folder`; SpecError or IncompatibleError when it is no cpu engine."""
        values = read_json(folder / SETTINGS_NAME, "the cpu engine's settings")
        names = {row.name for row in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise IncompatibleError(
                f"{folder / SETTINGS_NAME} does not describe a cpu engine that this version can open",
                expected=f"the keys {', '.join(sorted(names))}",
                fix="build the model again with this version, for the cpu runtime",
            )
        return cls(**{**values, "eos_token_ids": tuple(values["eos_token_ids"])})


@functools.cache
def runtime_version() -> str | None:
    """Version of the installed openvino-genai, None where there is none. Imports nothing heavy."""
    from importlib import metadata

    try:
        return metadata.version("openvino-genai")
    except metadata.PackageNotFoundError:
        return None


def pipeline_properties(settings: CpuEngineSettings, threads: int | None) -> dict[str, Any]:
    """Properties of the CPU plugin. `threads` None leaves the number of compute threads to OpenVINO."""
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": settings.inference_precision,
        "KV_CACHE_PRECISION": settings.kv_cache_precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(settings.dynamic_quantization_group_size),
        # The cache of compiled shapes grows with every new batch shape; unbounded, memory creeps for hours.
        "CPU_RUNTIME_CACHE_CAPACITY": "64",
    }
    return properties if threads is None else {**properties, "INFERENCE_NUM_THREADS": str(threads)}
