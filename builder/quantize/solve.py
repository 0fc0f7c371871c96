"""One group of linears: what its algorithm is given, and the tensors that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from builder.families import Family, LinearGroup
from builder.model_config import ModelConfig
from builder.quantize.algorithms import ALGORITHMS
from builder.quantize.algorithms.copy import convert
from builder.quantize.calibration.calibrate import Observed
from builder.quantize.calibration.emulate import emulate
from builder.quantize.formats import PLAIN
from builder.quantize.layouts.entries import stored_format
from builder.quantize.problem import Algorithm, GroupTask, Knobs, LinearTask, Solution, Tensor
from builder.quantize.raw import RawTensor, TensorSource
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Layout
from builder.quantize.torch_bits import for_each_block, from_torch, import_torch, to_torch


class GroupSolver:
    """Quantizes the groups of one model by one recipe for one layout."""

    def __init__(
        self, family: Family, config: ModelConfig, source: TensorSource, recipe: Recipe, layout: Layout, dtype: str
    ) -> None:
        self._family, self._source, self._recipe, self._layout = family, source, recipe, layout
        self._shapes = family.shapes(config)
        self._knobs = Knobs(dtype=dtype, smoothquant_alpha=recipe.smoothquant_alpha, awq_clip=recipe.awq_clip)

    def needs(self, group: LinearGroup) -> frozenset[str]:
        """The statistics that the group's algorithm asks for."""
        return self._algorithm(group).STATISTICS

    def solve(self, group: LinearGroup, observed: Observed | None) -> Solution:
        """Quantize; without `observed` the algorithm gets no statistics, and weights from the file."""
        facts = self._recipe.facts_of(group.modules[0], self._layout)
        task = GroupTask(
            linears=tuple(self._task(group, module, observed) for module in group.modules),
            share_scales=facts is not None and facts.share_scales,
            norm=self._norm(group) if facts is not None and facts.fold else None,
        )
        statistics = None if observed is None else observed.statistics(group)
        return self._algorithm(group).solve(task, statistics, self._knobs)

    def tensors(self, group: LinearGroup, solution: Solution) -> Iterator[tuple[str, RawTensor]]:
        """What is to be written, by Hugging Face name; the norm too where scales were folded into it."""
        for module, parts in solution.parts.items():
            for role, raw in parts.items():
                yield f"{module}.{role}", raw
        if solution.norm is not None and group.norm is not None:
            stored = (solution.norm - self._family.norm_offset(group.norm)).cpu()
            raw = from_torch(import_torch("folding scales"), stored, "F32")
            yield group.norm, convert(group.norm, raw, self._knobs.dtype)

    def replace(self, group: LinearGroup, solution: Solution, observed: Observed) -> None:
        """Let the layer in memory compute what the quantized one will."""
        for module, parts in solution.parts.items():
            emulate(observed.linear(module), stored_format(self._recipe, group, module, self._layout), parts)
        if solution.norm is not None and group.norm is not None:
            observed.set_norm(group.norm, solution.norm - self._family.norm_offset(group.norm))

    def _algorithm(self, group: LinearGroup) -> Algorithm:
        """Where an engine's builder quantizes itself, its file holds half precision."""
        scheme = self._recipe.scheme_of(group.modules[0])
        plain = self._recipe.format_of(group.modules[0], self._layout) == PLAIN
        return ALGORITHMS["copy" if plain or scheme is None else scheme.algorithm]

    def _task(self, group: LinearGroup, module: str, observed: Observed | None) -> LinearTask:
        name = f"{module}.weight"
        rows, columns = self._shapes[name]
        return LinearTask(
            module=module,
            rows=rows,
            columns=columns,
            format=stored_format(self._recipe, group, module, self._layout),
            raw=lambda: self._source.read(name),
            weight=lambda: self._weight(name, None if observed is None else observed.linear(module).weight),
        )

    def _norm(self, group: LinearGroup) -> Callable[[], Tensor] | None:
        name = group.norm
        return None if name is None else lambda: self._weight(name) + self._family.norm_offset(name)

    def _weight(self, name: str, loaded: Tensor | None = None) -> Tensor:
        """A tensor of the checkpoint as float32. `loaded` is it on the compute device, in the forward pass's dtype."""
        if loaded is None:
            return float32(self._source.read(name))
        return loaded if loaded.element_size() == 4 else float32(self._source.read(name)).to(loaded.device)


def float32(raw: RawTensor) -> Tensor:
    """A tensor of the checkpoint in memory of its own."""
    torch = import_torch("quantization")
    made = torch.empty(raw.array.shape)
    fill(raw, made)
    return made


def fill(raw: RawTensor, into: Tensor) -> None:
    """Copy a tensor of the checkpoint into a torch tensor of its shape, cast to its dtype."""
    torch = import_torch("quantization")
    if into.device.type != "cpu":
        into.copy_(to_torch(torch, raw.array.copy(), raw.dtype))
        return

    def work(rows: slice, block: Tensor) -> None:
        into[rows] = block

    for_each_block(torch, raw, work)
