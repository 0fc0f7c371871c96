"""What is the same in all readers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.families import Family, family_of
from builder.model_config import ModelConfig
from builder.quantize.formats import Format, Role
from builder.quantize.layouts.entries import kv_scale_names
from builder.quantize.layouts.parallel import Ranks
from builder.quantize.problem import Parts, Tensor
from builder.quantize.raw import RawTensor, to_float32
from builder.quantize.torch_bits import import_torch
from trtllm_kit.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


class CheckpointReader(ABC):
    """A checkpoint, quantized or not, under Hugging Face names. Nothing is read before it is asked for."""

    layout: str
    """"hf", "trtllm", or whose words it speaks: "awq", "compressed-tensors", "fp8"."""

    ranks = Ranks(tp_size=1, pp_size=1)
    """How it is split."""

    def __init__(self, folder: Path, config: ModelConfig, said: Mapping[str, Any]) -> None:
        self.folder, self.config = folder, config
        self.family: Family = family_of(config.architecture)
        self.shapes: Mapping[str, tuple[int, ...]] = self.family.shapes(config)
        self.linears = self.family.linear_names(config)
        self.quant_algo: str | None = said.get("quant_algo")
        self.kv_cache: str | None = said.get("kv_cache_quant_algo")
        self.producer: str | None = (said.get("producer") or {}).get("name")

    @abstractmethod
    def format(self, module: str) -> Format:
        """How a linear is stored; SpecError for what the kit does not know."""

    @abstractmethod
    def part(self, module: str, role: Role) -> RawTensor:
        """One tensor of a linear as it is stored, slices of ranks put together."""

    @abstractmethod
    def raw(self, name: str) -> RawTensor:
        """A tensor that is no part of a quantized linear, or the scale of keys or values."""

    @abstractmethod
    def stores(self, name: str) -> bool:
        """Whether the scale of keys or values is there; without one it is 1."""

    def names(self) -> list[str]:
        """All tensors of the model, each linear by its weight, and the scales of keys and values if there are any."""
        layers = range(self.config.num_hidden_layers if self.kv_cache else 0)
        scales = (name for layer in layers for name in kv_scale_names(self.family, self.config, layer))
        return [*self.shapes, *(name for name in scales if self.stores(name))]

    def modules(self) -> list[str]:
        """The linears that quantization applies to, in the order of the model."""
        return [name.removesuffix(".weight") for name in self.shapes if name in self.linears]

    def parts(self, module: str) -> Parts:
        """All tensors of a linear."""
        return {role: self.part(module, role) for role in self.format(module).parts}

    def linear(self, module: str) -> tuple[Format, Mapping[Role, Tensor]]:
        """(format, parts as torch tensors): what `numerics` dequantizes and rounds the input by."""
        return self.format(module), {role: as_torch(raw) for role, raw in self.parts(module).items()}

    def tensor(self, name: str) -> Floats:
        """The effective values of one tensor, in memory of its own: for a linear, codes times all its scales."""
        if name not in self.linears:
            return _own(to_float32(self.raw(name)))
        module = name.removesuffix(".weight")
        if set(self.format(module).parts) == {"weight"}:
            return _own(to_float32(self.part(module, "weight")))
        from builder.quantize.numerics import dequantize

        values: Floats = dequantize(*self.linear(module)).numpy()
        return values

    def rows(self, name: str, rows: Any) -> Floats:
        """Some rows of a tensor that is not quantized, such as those of the embedding that a text needs."""
        raw = self.raw(name)
        return _own(to_float32(RawTensor(raw.dtype, raw.array[rows])))


def _own(values: Floats) -> Floats:
    return values if values.flags.writeable else values.copy()


def unknown_format(folder: Path, module: str, found: Mapping[Any, tuple[str, tuple[int, ...]]]) -> SpecError:
    what = ", ".join(f"{role} {dtype} {list(shape)}" for role, (dtype, shape) in found.items()) or "nothing"
    return SpecError(
        f"{folder}: {module} consists of {what}, which is no format that the kit knows",
        expected="a quantized checkpoint of trtllm-kit or ModelOpt, AutoAWQ, compressed-tensors or FP8 blocks",
        fix="check that config.json belongs to these weights, or start from the original checkpoint",
    )


def as_torch(raw: RawTensor) -> Tensor:
    """A copy, for torch wants to be able to write, and files are mapped read-only."""
    torch = import_torch("reading a quantized checkpoint")
    bits = torch.from_numpy(raw.array.copy())
    name = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}.get(raw.dtype)
    return bits if name is None else bits.view(getattr(torch, name))
