"""How each weight format of the unified Hugging Face layout becomes a float32 operand of a matrix product.

Compressed formats keep the shape Constant → Convert → Multiply [→ Reshape], which the CPU plugin recognises and leaves
compressed in memory. A new format is a row of `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from builder.compile.openvino_ir.graph import Graph, Node
from builder.compile.openvino_ir.reader import RawTensor, Tensors
from trtllm_kit.errors import SpecError

_FLOATS = ("BF16", "F16", "F32")


@dataclass(frozen=True, kw_only=True)
class LinearTensors:
    """What the checkpoint stores of one linear layer of `rows` outputs and `columns` inputs."""

    name: str  # "model.layers.0.self_attn.q_proj"
    rows: int
    columns: int
    weight: RawTensor
    scale: RawTensor | None
    pre_quant_scale: RawTensor | None  # [columns], multiplies the input
    bias: RawTensor | None  # [rows]


@dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """One row: when it applies, and the nodes that give the dequantized weight, float32 [rows, columns]."""

    name: str
    fits: Callable[[LinearTensors], bool]
    expand: Callable[[Graph, LinearTensors], Node]


def load_linear(tensors: Tensors, name: str, rows: int, columns: int) -> LinearTensors:
    """The tensors of one linear layer; SpecError when its weight is absent."""
    return LinearTensors(
        name=name,
        rows=rows,
        columns=columns,
        weight=tensors[f"{name}.weight"],
        scale=tensors.find(f"{name}.weight_scale"),
        pre_quant_scale=tensors.find(f"{name}.pre_quant_scale"),
        bias=tensors.find(f"{name}.bias"),
    )


def expand(graph: Graph, linear: LinearTensors) -> Node:
    """The float32 [rows, columns] weight by the one format that fits; SpecError where none does."""
    for row in FORMATS:
        if row.fits(linear):
            return row.expand(graph, linear)
    scale = None if linear.scale is None else (linear.scale.dtype, linear.scale.shape)
    raise SpecError(
        f"{linear.name}: weight {linear.weight.dtype} {linear.weight.shape} with scale {scale} fits no weight format",
        expected=f"{linear.rows} x {linear.columns} in one of: {', '.join(row.name for row in FORMATS)}",
        fix="check that config.json belongs to these weights, or choose another precision for the cpu runtime",
    )


def _is_float(linear: LinearTensors) -> bool:
    plain = linear.weight.dtype in _FLOATS and linear.scale is None
    return plain and linear.weight.shape == (linear.rows, linear.columns)


def _float(graph: Graph, linear: LinearTensors) -> Node:
    return stored_float(graph, linear.weight)


def stored_float(graph: Graph, tensor: RawTensor) -> Node:
    """A float tensor in its stored type, converted to float32 inside the graph."""
    stored = graph.stored(tensor.data, tensor.dtype)
    return stored if tensor.dtype == "F32" else graph("convert", stored, "f32")


def _is_int8(linear: LinearTensors) -> bool:
    return (
        linear.weight.dtype == "I8"
        and linear.weight.shape == (linear.rows, linear.columns)
        and linear.scale is not None
        and linear.scale.shape in ((linear.rows,), (linear.rows, 1))
    )


def _int8(graph: Graph, linear: LinearTensors) -> Node:
    assert linear.scale is not None  # `fits` saw it
    scale = graph.array(linear.scale.float32().reshape(linear.rows, 1))
    return graph("multiply", graph("convert", graph.stored(linear.weight.data, "I8"), "f32"), scale)


def _is_int4(linear: LinearTensors) -> bool:
    if linear.weight.dtype != "U8" or linear.scale is None or len(linear.scale.shape) != 2:
        return False
    groups = linear.scale.shape[1]
    packed = linear.weight.shape == (linear.rows // 2, linear.columns) and linear.rows % 2 == 0
    return packed and linear.scale.shape[0] == linear.rows and groups > 0 and linear.columns % (2 * groups) == 0


def _int4(graph: Graph, linear: LinearTensors) -> Node:
    """Two rows share a byte in the checkpoint (even row low); OpenVINO packs two columns (even column low)."""
    import numpy as np

    assert linear.scale is not None  # `fits` saw it
    packed, groups = linear.weight.data, linear.scale.shape[1]
    repacked = np.empty((linear.rows, linear.columns // 2), np.uint8)
    repacked[0::2] = (packed[:, 0::2] & 15) | (packed[:, 1::2] << 4)
    repacked[1::2] = (packed[:, 0::2] >> 4) | (packed[:, 1::2] & 240)
    grouped = (linear.rows, groups, linear.columns // groups)
    scale = graph.array(linear.scale.float32().reshape(linear.rows, groups, 1))
    weight = graph("multiply", graph("convert", graph.stored(repacked, "i4", grouped), "f32"), scale)
    return graph("reshape", weight, graph.ints(linear.rows, linear.columns), special_zero=False)


FORMATS: tuple[WeightFormat, ...] = (
    WeightFormat(name="bfloat16, float16 or float32", fits=_is_float, expand=_float),
    WeightFormat(name="int8 with a scale per row", fits=_is_int8, expand=_int8),
    WeightFormat(name="packed int4 with a scale per row and group", fits=_is_int4, expand=_int4),
)
