"""Quantized checkpoints of other tools, read in the kit's formats where they have one: AutoAWQ and compressed-tensors.

Sources: the packing of AutoAWQ's GEMM kernels and of compressed-tensors' pack-quantized, both 8 codes to an int32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.quantize.formats import FORMATS, PLAIN, Format, Role
from builder.quantize.numerics import integers
from builder.quantize.problem import Parts, Tensor
from builder.quantize.raw import RawTensor, to_float32
from builder.quantize.reader.base import unknown_format
from builder.quantize.reader.hf import HfReader
from builder.quantize.torch_bits import from_torch, import_torch

_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # which nibble of an int32 holds the k-th of 8 neighbours
_IN_ORDER = tuple(range(8))

Stored = Mapping[str, RawTensor]
"""The tensors of one linear by the last part of their names."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """One way in which others store a linear: the tensors that tell it, and how they become one of our formats."""

    needs: frozenset[str]
    convert: Callable[[Stored], tuple[Format, Parts]]


def _awq(stored: Stored) -> tuple[Format, Parts]:
    """qweight and qzeros [in, out / 8], scales [groups, out]; weight = (code - zero) × scale, so no format of ours."""
    torch = import_torch("reading AutoAWQ weights")
    codes, zeros = (_unpack(torch, stored[name], _AWQ_ORDER) for name in ("qweight", "qzeros"))
    scales = torch.from_numpy(to_float32(stored["scales"]).copy())
    groups = codes.view(scales.shape[0], -1, codes.shape[1]) - zeros[:, None, :]
    weight = (groups * scales[:, None, :]).view(codes.shape).T.contiguous()
    return PLAIN, {"weight": from_torch(torch, weight, "F32")}


def _packed_int4(stored: Stored) -> tuple[Format, Parts]:
    """weight_packed [out, in / 8], weight_scale [out, groups], codes + 8."""
    torch = import_torch("reading packed INT4 weights")
    codes = (_unpack(torch, stored["weight_packed"], _IN_ORDER) - 8).to(torch.int8)
    rows, columns = (int(size) for size in stored["weight_shape"].array)
    scale, codes = stored["weight_scale"], codes[:rows, :columns].contiguous()
    if scale.array.shape[1] == 1:
        found, scale = FORMATS["int4_row"], RawTensor(scale.dtype, scale.array.reshape(-1))
    else:
        found = FORMATS["int4_group"].without("pre_quant_scale").of_group(columns // scale.array.shape[1])
    return found, {"weight": from_torch(torch, integers.pack_rows(codes), "U8"), "weight_scale": scale}


def _codes(stored: Stored) -> tuple[Format, Parts]:
    """weight [out, in] of one byte each; weight_scale of the tensor, [out, 1], or of blocks.

    INT8 with a dynamic scale for each token has no kernel in TensorRT-LLM, and here its input is not rounded.
    """
    weight, scale = stored["weight"], stored["weight_scale"]
    kind = "int8" if weight.dtype == "I8" else "fp8"
    parts: dict[Role, RawTensor] = {"weight": weight, "weight_scale": scale}
    if "input_scale" in stored:
        parts["input_scale"] = stored["input_scale"]
    if kind == "fp8" and scale.array.size == 1:
        found = FORMATS["fp8_tensor"]
        dynamic = dataclasses.replace(found.without("input_scale"), activation="fp8_token")
        return found if "input_scale" in parts else dynamic, parts
    if kind == "fp8" and scale.array.ndim == 2 and scale.array.shape[1] > 1:
        return FORMATS["fp8_block"], parts
    parts["weight_scale"] = RawTensor(scale.dtype, scale.array.reshape(-1))
    static = FORMATS["int8_sq"].without("pre_quant_scale")
    return static if "input_scale" in parts else FORMATS[f"{kind}_row"], parts


def _blocks(stored: Stored) -> tuple[Format, Parts]:
    """weight_scale_inv [out / 128, in / 128]: what the codes are multiplied by, whatever its name says."""
    return FORMATS["fp8_block"], {"weight": stored["weight"], "weight_scale": stored["weight_scale_inv"]}


FOREIGN = (
    Foreign(needs=frozenset({"qweight", "qzeros", "scales"}), convert=_awq),
    Foreign(needs=frozenset({"weight_packed", "weight_scale", "weight_shape"}), convert=_packed_int4),
    Foreign(needs=frozenset({"weight", "weight_scale"}), convert=_codes),
    Foreign(needs=frozenset({"weight", "weight_scale_inv"}), convert=_blocks),
)
METHODS = ("awq", "compressed-tensors", "fp8")
"""`quant_method` of `config.json`."""

_OPTIONAL = {"input_scale"}
_UNKNOWN = {"weight_zero_point", "weight_g_idx"}  # change what the others mean
_SUFFIXES = sorted({suffix for row in FOREIGN for suffix in row.needs} | _OPTIONAL | _UNKNOWN)


class ForeignReader(HfReader):
    """Linears that are in none of these ways are not quantized."""

    def __init__(self, folder: Path, raw: Mapping[str, Any]) -> None:
        super().__init__(folder, raw)
        self.layout = raw["quantization_config"]["quant_method"]

    def format(self, module: str) -> Format:
        return self._convert(module)[0]

    def part(self, module: str, role: Role) -> RawTensor:
        return self._convert(module)[1][role]

    def parts(self, module: str) -> Parts:
        return self._convert(module)[1]

    def _convert(self, module: str) -> tuple[Format, Parts]:
        stored = {name: self.raw(f"{module}.{name}") for name in _SUFFIXES if f"{module}.{name}" in self.tensors}
        if set(stored) == {"weight"}:
            return PLAIN, {"weight": stored["weight"]}
        for row in FOREIGN:
            if row.needs == set(stored) - _OPTIONAL:
                return row.convert(stored)
        raise unknown_format(self.folder, module, {name: (raw.dtype, raw.array.shape) for name, raw in stored.items()})


def _unpack(torch: Any, raw: RawTensor, order: tuple[int, ...]) -> Tensor:
    """int32 codes 0..15 [rows, columns] of an int32 tensor [rows, columns / 8]."""
    packed = torch.from_numpy(raw.array.copy())
    nibbles = [packed >> 4 * nibble & 0xF for nibble in order]
    return torch.stack(nibbles, dim=2).view(packed.shape[0], -1)
