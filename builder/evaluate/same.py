"""Whether a checkpoint is the base itself, or the base cast to another half precision: then nothing is measured."""

from __future__ import annotations

from builder.checkpoint import Checkpoint
from builder.evaluate.emulation import ROUNDED_BY_BUILDER
from builder.quantize.raw import RawTensor, TensorSource, to_float32
from builder.quantize.reader import CheckpointReader

_CASTS = {"BF16": "bfloat16", "F16": "float16"}


def cast_of(checkpoint: Checkpoint, reader: CheckpointReader) -> str | None:
    """The dtype of `reader` when each of its tensors is the base's in that dtype, to the bit; None otherwise."""
    if reader.kv_cache is not None or _rounded_later(reader):
        return None
    if any(reader.format(module).name != "plain" for module in reader.modules()):
        return None
    source = TensorSource(checkpoint.tensors)
    dtypes = set()
    for name in checkpoint.tensors:
        made = _stored(reader, name)
        if not _is_cast(source.read(name), made):
            return None
        dtypes.add(made.dtype)
    return ", ".join(sorted(_CASTS.get(dtype, "float32") for dtype in dtypes))


def _rounded_later(reader: CheckpointReader) -> bool:
    return reader.layout == "trtllm" and reader.quant_algo in ROUNDED_BY_BUILDER


def _stored(reader: CheckpointReader, name: str) -> RawTensor:
    module = name.removesuffix(".weight")
    return reader.parts(module)["weight"] if module in reader.modules() else reader.raw(name)


def _is_cast(base: RawTensor, made: RawTensor) -> bool:
    import numpy as np
    import torch

    if base.array.shape != made.array.shape:
        return False
    if base.dtype == made.dtype:
        return bool(np.array_equal(base.array, made.array))
    if made.dtype not in _CASTS:
        return False
    for rows in base.blocks():
        cast = torch.from_numpy(to_float32(RawTensor(base.dtype, base.array[rows])).copy()).to(
            getattr(torch, _CASTS[made.dtype])
        )
        if not np.array_equal(cast.view(torch.int16).numpy().view("uint16"), made.array[rows]):
            return False
    return True
