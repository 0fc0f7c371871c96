"""What a quantized checkpoint's linears take up, and what they would without quantization."""

from __future__ import annotations

import math

from builder.evaluate.emulation import ROUNDED_BY_BUILDER
from builder.evaluate.groups import patterns_of
from builder.quantize.reader import CheckpointReader
from builder.safetensors_index import ITEM_BYTES

_HALF_BYTES = 2


def average_bits(reader: CheckpointReader) -> float:
    """Bits of a weight, scales left out, over all linears; 16 where nothing is quantized."""
    built = ROUNDED_BY_BUILDER.get(str(reader.quant_algo)) if reader.layout == "trtllm" else None
    sizes = {module: math.prod(reader.shapes[f"{module}.weight"]) for module in reader.modules()}
    bits = sum(size * (built or reader.format(module).bits) for module, size in sizes.items())
    return bits / sum(sizes.values()) if sizes else 16.0


def extra_bytes(reader: CheckpointReader) -> dict[str, int]:
    """What the checkpoint grows by when linears stay in half precision, by pattern; 0 where they do.

    The experts of a layer share a pattern, and count together.
    """
    found: dict[str, int] = {}
    for index in range(reader.config.num_hidden_layers):
        patterns = patterns_of(reader.family, reader.config, index)
        for module in reader.family.modules(reader.config, index):
            if module.linear.quantized:
                pattern = patterns[module.name]
                found[pattern] = found.get(pattern, 0) + _extra(reader, module.name)
    return found


def _extra(reader: CheckpointReader, module: str) -> int:
    rows, columns = reader.shapes[f"{module}.weight"]
    parts = reader.format(module).parts.values()
    stored = sum(math.prod(part.shape(rows, columns)) * ITEM_BYTES[part.dtype or "F16"] for part in parts)
    return max(0, _HALF_BYTES * rows * columns - stored)
