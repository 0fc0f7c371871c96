"""What a quantized linear consists of: a table of formats, each a few tensors that share the weight's rows and columns.

A part says how many rows and how many columns of the weight [out, in] stand behind one of its elements. Everything that
handles parts follows from that: their shapes, how they are cut for a rank, how the weight is put together again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Role = Literal["weight", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale"]
"""The parts by the suffix that they have in the unified Hugging Face layout."""

Activation = Literal["half", "int8_tensor", "fp8_tensor", "fp8_token", "fp8_block", "nvfp4"]
"""What the kernel does to the input before the product: nothing, or rounds it with a static scale for the tensor
(`int8_tensor`, `fp8_tensor`), a dynamic one for each token (`fp8_token`) or each 128 features of a token (`fp8_block`),
or an FP8 scale for each 16 features below a static one (`nvfp4`)."""

GROUP = -1
"""In `Part.columns`: as many as the scheme's group size."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One tensor of a linear. `rows` and `columns` count what shares an element; None: it has no such axis."""

    dtype: str | None  # safetensors' name; None: the half precision of whatever is not quantized
    rows: int | None = None
    columns: int | None = None

    def shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Its shape for a weight [rows, columns]; a last block may be cut short."""
        axes = ((rows, self.rows), (columns, self.columns))
        return tuple(-(-size // shared) for size, shared in axes if shared is not None)


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to store a linear: `codes × weight_scale`, in `nvfp4` × `weight_scale_2`, and × `pre_quant_scale` if any.

    In `w4a8_group` the `weight_scale_2` is no factor of the weight but the scale of the FP8 that kernels expand it to.
    """

    name: str
    parts: Mapping[Role, Part]
    activation: Activation = "half"
    bits: float = 16  # for each weight, scales left out
    group_size: int | None = None  # in features that share a scale; None: a row or the tensor does

    def of_group(self, size: int) -> Format:
        """This format with `GROUP` replaced by `size`."""
        parts = {
            role: dataclasses.replace(part, columns=size) if part.columns == GROUP else part
            for role, part in self.parts.items()
        }
        return dataclasses.replace(self, parts=MappingProxyType(parts), group_size=size)

    def without(self, role: Role) -> Format:
        """This format less one part, such as a `pre_quant_scale` that was folded into the norm before it."""
        return dataclasses.replace(
            self, parts=MappingProxyType({name: part for name, part in self.parts.items() if name != role})
        )

    @property
    def column_multiple(self) -> int:
        """In-features must divide by this; the last block of `fp8_block` alone may be short."""
        blocks = [part.columns for part in self.parts.values() if part.columns and part.rows in (1, 2)]
        return max(blocks, default=1)

    @property
    def row_multiple(self) -> int:
        """Out-features must divide by this, for rows that share a byte cannot be parted."""
        return self.parts["weight"].rows or 1


_ROW_SCALE = Part(dtype="F32", rows=1)
_GROUP_SCALE = Part(dtype="F32", rows=1, columns=GROUP)
_SCALAR = Part(dtype="F32")
_PRE_QUANT = Part(dtype=None, columns=1)
_INT8, _FP8 = Part(dtype="I8", rows=1, columns=1), Part(dtype="F8_E4M3", rows=1, columns=1)
_INT4 = Part(dtype="U8", rows=2, columns=1)  # byte = row 2k in the low nibble, row 2k+1 in the high one, -8..7
_FP4 = Part(dtype="U8", rows=1, columns=2)  # even column in the low nibble, E2M1

_ROWS = (
    Format(name="plain", parts={"weight": Part(dtype=None, rows=1, columns=1)}),
    Format(name="int8_row", bits=8, parts={"weight": _INT8, "weight_scale": _ROW_SCALE}),
    Format(name="int4_row", bits=4, parts={"weight": _INT4, "weight_scale": _ROW_SCALE}),
    Format(
        name="int8_sq",
        bits=8,
        activation="int8_tensor",
        parts={"weight": _INT8, "weight_scale": _ROW_SCALE, "input_scale": _SCALAR, "pre_quant_scale": _PRE_QUANT},
    ),
    Format(
        name="int4_group",
        bits=4,
        parts={"weight": _INT4, "weight_scale": _GROUP_SCALE, "pre_quant_scale": _PRE_QUANT},
    ),
    Format(
        name="w4a8_group",
        bits=4,
        activation="fp8_tensor",
        parts={
            "weight": _INT4,
            "weight_scale": _GROUP_SCALE,
            "weight_scale_2": _SCALAR,
            "input_scale": _SCALAR,
            "pre_quant_scale": _PRE_QUANT,
        },
    ),
    Format(
        name="fp8_tensor",
        bits=8,
        activation="fp8_tensor",
        parts={"weight": _FP8, "weight_scale": _SCALAR, "input_scale": _SCALAR},
    ),
    Format(name="fp8_row", bits=8, activation="fp8_token", parts={"weight": _FP8, "weight_scale": _ROW_SCALE}),
    Format(
        name="fp8_block",
        bits=8,
        activation="fp8_block",
        parts={"weight": _FP8, "weight_scale": Part(dtype="F32", rows=128, columns=128)},
    ),
    Format(
        name="nvfp4",
        bits=4,
        activation="nvfp4",
        group_size=16,
        parts={
            "weight": _FP4,
            "weight_scale": Part(dtype="F8_E4M3", rows=1, columns=16),
            "weight_scale_2": _SCALAR,
            "input_scale": _SCALAR,
        },
    ),
)
FORMATS: Mapping[str, Format] = MappingProxyType({row.name: row for row in _ROWS})
PLAIN = FORMATS["plain"]
