"""How each weight format of the unified Hugging Face layout becomes a float32 operand of a matrix product.

Formats keep the shape Constant → Convert → Multiply [→ Reshape], which the CPU plugin recognises: it leaves integers
and FP4 compressed in memory, and expands FP8 to float32 when it loads the engine. A new format is a row of `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from builder.compile.openvino_ir.graph import Graph, Node
from builder.compile.openvino_ir.reader import RawTensor, Tensors
from trtllm_kit.errors import SpecError

NATIVE = "native"
EXPANDED = "expanded to float32 when the engine is loaded"
DEQUANTIZED = "dequantized to float32 when the engine is built"
_FLOATS = ("BF16", "F16", "F32")
_BLOCK = 128


@dataclass(frozen=True, kw_only=True)
class LinearTensors:
    """What the checkpoint stores of one linear layer of `rows` outputs and `columns` inputs."""

    name: str  # "model.layers.0.self_attn.q_proj"
    rows: int
    columns: int
    weight: RawTensor
    scale: RawTensor | None
    scale_2: RawTensor | None  # [], of all FP8 scales in `scale`
    pre_quant_scale: RawTensor | None  # [columns], multiplies the input
    bias: RawTensor | None  # [rows]

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scale without axes of length one at its end; (-1,) where there is none."""
        shape = (-1,) if self.scale is None else self.scale.shape
        while shape and shape[-1] == 1:
            shape = shape[:-1]
        return shape


@dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """One row: when it applies, and the nodes that give the dequantized weight, float32 [rows, columns]."""

    name: str
    held: str  # what the CPU plugin does with it
    fits: Callable[[LinearTensors], bool]
    expand: Callable[[Graph, LinearTensors], Node]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Expands the linears of one model, and remembers what became of each kind of weight."""

    held: dict[str, str] = field(default_factory=dict)  # name of a format -> NATIVE or EXPANDED

    def expand(self, graph: Graph, linear: LinearTensors) -> Node:
        """The float32 [rows, columns] weight by the one format that fits; SpecError where none does."""
        for row in FORMATS:
            if row.fits(linear):
                self.held[row.name] = row.held
                return row.expand(graph, linear)
        scale = None if linear.scale is None else (linear.scale.dtype, linear.scale.shape)
        raise SpecError(
            f"{linear.name}: weight {linear.weight.dtype} {linear.weight.shape} with scale {scale} fits no weight "
            "format",
            expected=f"{linear.rows} x {linear.columns} in one of: {', '.join(row.name for row in FORMATS)}",
            fix="check that config.json belongs to these weights, or choose another precision for the cpu runtime",
        )


def load_linear(tensors: Tensors, name: str, rows: int, columns: int) -> LinearTensors:
    """The tensors of one linear layer; SpecError when its weight is absent."""
    parts = tensors.parts(name)
    return LinearTensors(
        name=name,
        rows=rows,
        columns=columns,
        weight=parts["weight"] if "weight" in parts else tensors[f"{name}.weight"],
        # DeepSeek's name for the scales of blocks; they multiply the codes all the same.
        scale=parts.get("weight_scale") or parts.get("weight_scale_inv"),
        scale_2=parts.get("weight_scale_2"),
        pre_quant_scale=parts.get("pre_quant_scale"),
        bias=tensors.find(f"{name}.bias"),
    )


def stored_float(graph: Graph, tensor: RawTensor) -> Node:
    """A float tensor in its stored type, converted to float32 inside the graph."""
    stored = graph.stored(tensor.data if tensor.mapped else graph.spill(tensor.data), tensor.dtype)
    return stored if tensor.dtype == "F32" else graph("convert", stored, "f32")


def _is(linear: LinearTensors, dtypes: tuple[str, ...], *scale_shapes: tuple[int, ...]) -> bool:
    """Whether the weight is [rows, columns] in one of `dtypes`, with a scale of one of these shapes."""
    whole = linear.weight.shape == (linear.rows, linear.columns)
    return whole and linear.weight.dtype in dtypes and linear.scale_shape in scale_shapes


def _scaled(graph: Graph, linear: LinearTensors, *shape: int) -> Node:
    """The codes times the scale in a shape that broadcasts over them."""
    assert linear.scale is not None  # `fits` saw it
    scale = graph.array(linear.scale.float32().reshape(shape))
    return graph("multiply", stored_float(graph, linear.weight), scale)


def _is_int4(linear: LinearTensors) -> bool:
    if linear.weight.dtype != "U8" or linear.scale is None or linear.scale.dtype not in _FLOATS:
        return False
    if linear.rows % 2 or linear.weight.shape != (linear.rows // 2, linear.columns):
        return False
    groups = _groups(linear)
    return linear.scale_shape in ((linear.rows, groups), (linear.rows,)) and linear.columns % (2 * groups) == 0


def _groups(linear: LinearTensors) -> int:
    return max(1, linear.scale_shape[1]) if len(linear.scale_shape) == 2 else 1


def _int4(graph: Graph, linear: LinearTensors) -> Node:
    """Two rows share a byte in the checkpoint (even row low); OpenVINO packs two columns (even column low)."""
    import numpy as np

    assert linear.scale is not None  # `fits` saw it
    packed, groups = linear.weight.data, _groups(linear)
    repacked = np.empty((linear.rows, linear.columns // 2), np.uint8)
    repacked[0::2] = (packed[:, 0::2] & 15) | (packed[:, 1::2] << 4)
    repacked[1::2] = (packed[:, 0::2] >> 4) | (packed[:, 1::2] & 240)
    grouped = (linear.rows, groups, linear.columns // groups)
    scale = graph.array(linear.scale.float32().reshape(linear.rows, groups, 1))
    weight = graph("multiply", graph("convert", graph.stored(graph.spill(repacked), "i4", grouped), "f32"), scale)
    return graph("reshape", weight, graph.ints(linear.rows, linear.columns), special_zero=False)


def _is_fp8_block(linear: LinearTensors) -> bool:
    blocks = (-(-linear.rows // _BLOCK), -(-linear.columns // _BLOCK))
    return linear.scale is not None and linear.scale.shape == blocks and _is(linear, ("F8_E4M3",), linear.scale_shape)


def _fp8_block(graph: Graph, linear: LinearTensors) -> Node:
    """The scale of each weight is looked up, because the blocks at the end may be cut short."""
    import numpy as np

    assert linear.scale is not None  # `fits` saw it
    scale = graph.array(linear.scale.float32())
    for axis, size in enumerate((linear.rows, linear.columns)):
        block = graph.array(np.arange(size, dtype=np.int32) // _BLOCK)
        scale = graph("gather", scale, block, graph.scalar(axis, "int32"))
    return graph("multiply", stored_float(graph, linear.weight), scale)


def _is_fp4(linear: LinearTensors) -> bool:
    scale, scale_2 = linear.scale, linear.scale_2
    if linear.weight.dtype != "U8" or scale is None or scale.dtype != "F8_E4M3" or scale_2 is None:
        return False
    halved = linear.columns % 16 == 0 and linear.weight.shape == (linear.rows, linear.columns // 2)
    return halved and scale.shape == (linear.rows, linear.columns // 16)


def _fp4(graph: Graph, linear: LinearTensors) -> Node:
    assert linear.scale is not None  # `fits` saw both
    assert linear.scale_2 is not None
    grouped = (linear.rows, linear.columns // 16, 16)
    scale = graph.stored(linear.scale.data, "f8e4m3", (*grouped[:2], 1))
    scale = graph("multiply", graph("convert", scale, "f32"), graph.array(linear.scale_2.float32().reshape(1, 1, 1)))
    weight = graph("multiply", graph("convert", graph.stored(linear.weight.data, "f4e2m1", grouped), "f32"), scale)
    return graph("reshape", weight, graph.ints(linear.rows, linear.columns), special_zero=False)


FORMATS: tuple[WeightFormat, ...] = (
    WeightFormat(
        name="int4 with zero points",
        held=DEQUANTIZED,
        fits=lambda linear: _is(linear, ("F32",), (-1,)) and not linear.weight.mapped,
        expand=lambda graph, linear: stored_float(graph, linear.weight),
    ),
    WeightFormat(
        name="float",
        held=EXPANDED,
        fits=lambda linear: _is(linear, _FLOATS, (-1,)),
        expand=lambda graph, linear: stored_float(graph, linear.weight),
    ),
    WeightFormat(
        name="int8",
        held=NATIVE,
        fits=lambda linear: _is(linear, ("I8",), (linear.rows,)),
        expand=lambda graph, linear: _scaled(graph, linear, linear.rows, 1),
    ),
    WeightFormat(name="int4", held=NATIVE, fits=_is_int4, expand=_int4),
    WeightFormat(
        name="fp8",
        held=EXPANDED,
        fits=lambda linear: _is(linear, ("F8_E4M3",), ()),
        expand=lambda graph, linear: _scaled(graph, linear, 1, 1),
    ),
    WeightFormat(
        name="fp8_row",
        held=EXPANDED,
        fits=lambda linear: _is(linear, ("F8_E4M3",), (linear.rows,)),
        expand=lambda graph, linear: _scaled(graph, linear, linear.rows, 1),
    ),
    WeightFormat(name="fp8_block", held=EXPANDED, fits=_is_fp8_block, expand=_fp8_block),
    WeightFormat(name="nvfp4", held=NATIVE, fits=_is_fp4, expand=_fp4),
)
