"""The way of a model through the quantizer: embedding, one decoder layer after the other, final norm and head."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from builder.checkpoint import Checkpoint
from builder.families import Family, LinearGroup, family_of
from builder.quantize.algorithms.copy import convert
from builder.quantize.calibration.calibrate import Calibration, Observed
from builder.quantize.calibration.heap import give_back
from builder.quantize.calibration.statistics import CacheObserver
from builder.quantize.journal import Journal
from builder.quantize.layouts import LayoutWriter
from builder.quantize.layouts.entries import kv_scale_names
from builder.quantize.numerics import kv
from builder.quantize.problem import Tensor
from builder.quantize.raw import RawTensor, TensorSource
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Layout
from builder.quantize.solve import GroupSolver, fill, float32
from builder.quantize.torch_bits import from_torch, import_torch
from trtllm_kit.console import Talk

Figures = dict[str, Mapping[str, float]]


class LayerStream:
    """One model by one recipe into one layout, a layer in memory at a time."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, layout: Layout, dtype: str) -> None:
        self._config, self._entries, self._recipe, self._dtype = checkpoint.config, checkpoint.tensors, recipe, dtype
        self._family: Family = family_of(self._config.architecture)
        self._source = TensorSource(checkpoint.tensors)
        self.solver = GroupSolver(self._family, self._config, self._source, recipe, layout, dtype)

    def run(self, writer: LayoutWriter, calibration: Calibration | None, journal: Journal, talk: Talk) -> None:
        """Read, calibrate, quantize, write and drop, from the layer on where `journal` stands."""
        title, layers = f"quantize to {self._recipe.precision}", self._config.num_hidden_layers
        talk.progress(0, layers + 2, title)
        self._copy(writer, [self._family.embedding])
        for layer in range(self._begin(calibration, journal), layers):
            talk.progress(layer + 1, layers + 2, title)
            self._read_ahead(layer + 1)
            if layer < journal.layer and calibration is not None and not self._recipe.quantized_predecessors:
                calibration.skip(layer)
                continue
            figures = self._layer(writer, calibration, layer)
            writer.flush()
            journal.record(layer + 1, figures)
            give_back()
        talk.progress(layers + 1, layers + 2, title)
        self._copy(writer, [name for name in self._family.shapes(self._config) if not self._in_layers(name)])
        talk.progress(layers + 2, layers + 2, title)

    def fill(self, name: str, into: Tensor) -> None:
        """Read a tensor of the checkpoint for the calibration."""
        fill(self._source.read(name), into)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the embedding as float32."""
        raw = self._source.read(self._family.embedding)
        return float32(RawTensor(raw.dtype, raw.array[ids.numpy()]))

    def _begin(self, calibration: Calibration | None, journal: Journal) -> int:
        """The layer to go on at: the first one where its hidden states were lost."""
        if calibration is None or journal.has_hidden:
            return journal.layer
        calibration.start()
        return 0

    def _layer(self, writer: LayoutWriter, calibration: Calibration | None, layer: int) -> Figures:
        left = dict.fromkeys(name for name, _ in self._family.layer_shapes(self._config, layer))
        figures: Figures = {}
        cache: CacheObserver | None = None
        for group, observed in self._groups(calibration, layer):
            solution = self.solver.solve(group, observed)
            for name, raw in self.solver.tensors(group, solution):
                self._write(writer, name, raw)
                left.pop(name, None)
            figures.update(solution.figures)
            if observed is not None:
                cache = cache or observed.cache
                if self._recipe.quantized_predecessors:
                    self.solver.replace(group, solution, observed)
        self._copy(writer, list(left))
        self._write_kv_scales(writer, layer, cache)
        return figures

    def _groups(self, calibration: Calibration | None, layer: int) -> Iterator[tuple[LinearGroup, Observed | None]]:
        if calibration is None:
            yield from ((group, None) for group in self._family.groups(self._config, layer))
        else:
            for observed in calibration.layer(layer, self.solver.needs):
                yield from ((group, observed) for group in observed.groups)

    def _write_kv_scales(self, writer: LayoutWriter, layer: int, cache: CacheObserver | None) -> None:
        if self._recipe.kv_cache == "none":
            return
        torch = import_torch("KV scales")
        names = kv_scale_names(self._family, self._config, layer)
        largest = (torch.zeros(()), torch.zeros(())) if cache is None else cache.amax(names[0].rpartition(".")[0])
        for name, scale in zip(names, kv.scales(self._recipe.kv_cache, *largest), strict=True):
            self._write(writer, name, from_torch(torch, scale.cpu(), "F32"))

    def _copy(self, writer: LayoutWriter, names: list[str]) -> None:
        for name in names:
            if name not in writer.written:
                writer.write(name, convert(name, self._source.read(name), self._dtype))

    def _write(self, writer: LayoutWriter, name: str, raw: RawTensor) -> None:
        if name not in writer.written:
            writer.write(name, raw)

    def _in_layers(self, name: str) -> bool:
        return name == self._family.embedding or name.startswith(f"{self._family.layers}.")

    def _read_ahead(self, layer: int) -> None:
        """Tell the kernel which bytes come next: they are read from the disk while this layer computes."""
        if layer >= self._config.num_hidden_layers:
            return
        for name, _ in self._family.layer_shapes(self._config, layer):
            entry = self._entries[name]
            descriptor = os.open(entry.file, os.O_RDONLY)
            os.posix_fadvise(descriptor, entry.start, entry.size_bytes, os.POSIX_FADV_WILLNEED)
            os.close(descriptor)
