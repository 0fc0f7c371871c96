"""The two models that are compared, each as transformers' layers that are filled one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from builder.checkpoint import Checkpoint
from builder.evaluate.emulation import (
    ROUNDED_BY_BUILDER,
    EmulatedLinear,
    RoundedCache,
    rounded_by_builder,
    rounding_inputs,
    with_cache,
)
from builder.evaluate.experts import experts_of
from builder.families import Family, family_of
from builder.model_config import ModelConfig
from builder.quantize.calibration.skeleton import Skeleton
from builder.quantize.layouts.entries import kv_scale_names
from builder.quantize.problem import Tensor
from builder.quantize.raw import RawTensor, TensorSource, to_float32
from builder.quantize.reader import CheckpointReader


@dataclass(frozen=True, kw_only=True)
class OpenLayer:
    """A decoder layer with its weights in memory."""

    module: Any
    arguments: Callable[[int], Mapping[str, Any]]  # by the number of tokens
    experts: Mapping[str, Any]  # their linears, by name within the layer, under which transformers has none
    linears: Mapping[str, EmulatedLinear] = field(default_factory=dict)  # by name within the layer; of the base: none

    def submodule(self, name: str) -> Any:
        """A linear or a norm by its name within the layer."""
        return self.experts[name] if name in self.experts else self.module.get_submodule(name)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden states [tokens, hidden] of one document through the layer."""
        made = self.module(hidden[None], **self.arguments(len(hidden)))
        return (made[0] if isinstance(made, tuple) else made)[0]


class Side:
    """What both models share: the skeleton, and the arguments of its layers, which depend on a document's length."""

    def __init__(self, config: ModelConfig, device: str) -> None:
        self.family: Family = family_of(config.architecture)
        self.config, self.device = config, device
        self._skeleton = Skeleton(self.family, config, device=device, dtype="float32")
        self._arguments: dict[int, list[dict[str, Any]]] = {}

    def read(self, name: str) -> Tensor:
        raise NotImplementedError

    def rows(self, name: str, rows: Any) -> Tensor:
        raise NotImplementedError

    def embed(self, ids: Tensor) -> Tensor:
        """[tokens, hidden] of token ids [tokens]. Not for several threads at once."""
        if len(ids) not in self._arguments:
            self._arguments[len(ids)] = self._skeleton.calls(len(ids))
        return self._skeleton.embed(ids[None], lambda words: self.rows(self.family.embedding, words.tolist()))[0]

    def final_norm(self, hidden: Tensor) -> Tensor:
        return self._skeleton.final_norm(hidden, self.read)

    def arguments(self, index: int, length: int) -> Mapping[str, Any]:
        """What layer `index` is called with for a document of `length` tokens that was embedded before."""
        return self._arguments[length][index]

    @contextmanager
    def _open(self, index: int, read: Callable[[str], Tensor]) -> Iterator[tuple[Any, dict[str, Any]]]:
        """A layer with its weights, and the linears of its experts by their names within the layer."""
        prefix = f"{self.family.layers}.{index}."
        modules = [module for module in self.family.modules(self.config, index) if module.expert is not None]
        with self._skeleton.layer(index, read) as layer:
            if not modules:
                yield layer, {}
                return
            path = self._skeleton.experts_path(index)
            absent = layer.get_submodule(path)
            mixture, linears = experts_of(modules, read, self._skeleton.activation)
            layer.set_submodule(path, mixture)
            yield layer, {name.removeprefix(prefix): linear for name, linear in linears.items()}
            layer.set_submodule(path, absent)

    def on_device(self, array: Any) -> Tensor:
        import torch

        return torch.from_numpy(array).to(self.device)


class BaseSide(Side):
    """The unquantized checkpoint in float32."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        super().__init__(checkpoint.config, device)
        self._source = TensorSource(checkpoint.tensors)

    def read(self, name: str) -> Tensor:
        return self.on_device(_writable(to_float32(self._source.read(name))))

    def rows(self, name: str, rows: Any) -> Tensor:
        raw = self._source.read(name)
        return self.on_device(_writable(to_float32(RawTensor(raw.dtype, raw.array[rows]))))

    @contextmanager
    def layer(self, index: int) -> Iterator[OpenLayer]:
        with self._open(index, self.read) as (module, experts):
            yield OpenLayer(module=module, experts=experts, arguments=lambda length: self.arguments(index, length))


class QuantizedSide(Side):
    """A quantized checkpoint as its kernels compute it, with the base's own layer classes."""

    def __init__(self, reader: CheckpointReader, config: ModelConfig, device: str) -> None:
        super().__init__(config, device)
        self._reader = reader
        self._built_bits = ROUNDED_BY_BUILDER.get(str(reader.quant_algo)) if reader.layout == "trtllm" else None

    def read(self, name: str) -> Tensor:
        return self.on_device(_writable(self._reader.tensor(name)))

    def rows(self, name: str, rows: Any) -> Tensor:
        return self.on_device(_writable(self._reader.rows(name, rows)))

    @contextmanager
    def layer(self, index: int) -> Iterator[OpenLayer]:
        prefix = f"{self.family.layers}.{index}."
        modules = [module for group in self.family.groups(self.config, index) for module in group.modules]
        linears = {module.removeprefix(prefix): self._linear(module) for module in modules}
        cache = self._cache(index)

        def read(name: str) -> Tensor:
            linear = linears.get(name.removeprefix(prefix).removesuffix(".weight"))
            return self.read(name) if linear is None or not name.endswith(".weight") else linear.weight

        with self._open(index, read) as (module, experts):
            layer = OpenLayer(
                module=module,
                experts=experts,
                arguments=lambda length: with_cache(self.arguments(index, length), cache),
                linears=linears,
            )
            with rounding_inputs(layer.submodule, linears):
                yield layer

    def _linear(self, module: str) -> EmulatedLinear:
        stored, parts = self._reader.linear(module)
        linear = EmulatedLinear.of(stored, {role: part.to(self.device) for role, part in parts.items()})
        if self._built_bits is None:
            return linear
        return EmulatedLinear(weight=rounded_by_builder(linear.weight, self._built_bits))

    def _cache(self, index: int) -> RoundedCache | None:
        if self._reader.kv_cache is None:
            return None
        key, value = (self.read(name) for name in kv_scale_names(self.family, self.config, index))
        return RoundedCache(self._reader.kv_cache.lower(), key, value)


def _writable(values: Any) -> Any:
    """In memory of its own, which torch asks for."""
    return values if values.flags.writeable else values.copy()
