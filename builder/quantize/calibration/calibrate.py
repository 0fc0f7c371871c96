"""The calibration of a whole model: hidden states go from layer to layer, statistics and weights to the algorithms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.families import Family, LinearGroup
from builder.model_config import ModelConfig
from builder.quantize.calibration.experts import Routing, expert
from builder.quantize.calibration.hidden import CHUNK_TOKENS, HiddenStates
from builder.quantize.calibration.room import Fill, Loader, Room, read_into
from builder.quantize.calibration.runner import Watcher, Workers, run_expert, run_layer, wave_chunks
from builder.quantize.calibration.skeleton import Skeleton
from builder.quantize.calibration.statistics import CacheObserver, GramMatrix, InputObserver
from builder.quantize.problem import InputStatistics, Tensor

Needs = Callable[[LinearGroup], frozenset[str]]
"""Which statistics the algorithm of a group asks for."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A decoder layer, or one of its experts, after its pass and for as long as it is in memory."""

    groups: tuple[LinearGroup, ...]
    module: Any
    prefix: str  # of the names within `module`
    submodules: Mapping[str, str]  # where in `module` each linear is, by its Hugging Face name
    observers: dict[str, InputObserver]  # by the first linear of a group
    cache: CacheObserver | None = None

    def statistics(self, group: LinearGroup) -> InputStatistics | None:
        """Of what the group reads, once; None where nothing was asked for."""
        observer = self.observers.pop(group.modules[0], None)
        return None if observer is None else observer.statistics(group.modules[0])

    def linear(self, module: str) -> Any:
        """A linear as a torch module."""
        return self.module.get_submodule(self.submodules[module])

    def set_norm(self, name: str, stored: Tensor) -> None:
        """Give a norm of the layer another weight."""
        self.module.get_parameter(name.removeprefix(self.prefix)).data.copy_(stored)


class Calibration:
    """Runs token ids through the layers in order.

    Args:
        ids: [samples, length], a numpy array.
        fill: reads tensors of the checkpoint.
        rows: rows of the embedding by token id.
        work: a folder for the hidden states between layers and for a wave's inputs.
        twice: pass on what a layer gives after its `Observed` was changed, and not what it gave at first.
        keep_cache: observe keys and values too.
    """

    def __init__(
        self,
        family: Family,
        config: ModelConfig,
        ids: Any,
        *,
        fill: Fill,
        rows: Callable[[Tensor], Tensor],
        dtype: str,
        device: str,
        work: Path,
        pool: Workers,
        twice: bool = False,
        keep_cache: bool = False,
    ) -> None:
        self._family, self._config, self._ids, self._fill, self._rows = family, config, ids, fill, rows
        self._dtype, self._device, self._work, self._pool = dtype, device, work, pool
        self._twice, self._keep_cache = twice, keep_cache
        self._skeleton = Skeleton(family, config, device=device, dtype=dtype)
        self._loader = Loader(
            [self._skeleton.weights(index) for index in range(config.num_hidden_layers)],
            fill,
            [Room(work / f"layer{number}.bin", dtype, device) for number in range(1 if device == "cpu" else 2)],
        )
        self._expert_room = Room(work / "expert.bin", dtype, device)
        self._calls = self._skeleton.calls(ids.shape[1])
        old = "past_key_value"  # transformers before 4.56
        self._cache_argument = old if old in self._calls[0] else "past_key_values"
        self._shapes = family.shapes(config)

    def start(self) -> None:
        """Hidden states of the embedding."""
        import torch

        first = self._hidden(0)
        for piece in first.chunks():
            first.write(piece, self._skeleton.embed(torch.from_numpy(self._ids[piece]), self._rows))

    def skip(self, index: int) -> None:
        """Run layer `index` for its output alone."""
        for _ in self.layer(index, lambda group: frozenset()):
            pass

    def layer(self, index: int, needs: Needs) -> Iterator[Observed]:
        """Run layer `index`, and yield it, then each of its experts, to be quantized before the next is loaded."""
        prefix = f"{self._family.layers}.{index}."
        source, target = self._hidden(index), self._hidden(index + 1)
        dense, experts = self._groups(index)
        routing = Routing(self._states("routed.bin"), self._config.experts_per_token) if experts else None
        between: dict[str, Watcher] = {} if routing is None else {self._skeleton.experts_path(index): routing}
        with self._skeleton.layer(index, self._loader.take(index).__getitem__) as module:
            observers = self._observers(dense, needs, len(source.chunks()), source.chunk_tokens)
            local = {name: name.removeprefix(prefix) for group in dense for name in group.modules}
            cache = CacheObserver() if self._keep_cache else None
            call = self._calls[index] if cache is None else {**self._calls[index], self._cache_argument: cache}
            watchers: dict[str, Watcher] = {local[name]: observer for name, observer in observers.items()}
            run_layer(module, call, source, None if self._twice else target, watchers | between, self._pool)
            yield Observed(
                groups=dense, module=module, prefix=prefix, submodules=local, observers=observers, cache=cache
            )
            if self._twice:
                run_layer(module, self._calls[index], source, target, between, self._pool)
        for number, groups in experts.items():
            assert routing is not None
            yield from self._expert(index, number, groups, routing, target, needs)

    def _expert(
        self,
        index: int,
        number: int,
        groups: tuple[LinearGroup, ...],
        routing: Routing,
        target: HiddenStates,
        needs: Needs,
    ) -> Iterator[Observed]:
        roles: dict[str, str] = {
            found.name: found.linear.slices[0].role
            for found in self._family.modules(self._config, index)
            if found.expert == number
        }
        shapes = {f"{name}.weight": self._shapes[f"{name}.weight"] for name in roles}
        weights = read_into(self._expert_room, shapes, self._fill)
        module = expert({role: weights[f"{name}.weight"] for name, role in roles.items()}, self._skeleton.activation)
        observers = self._observers(groups, needs, len(routing.shares(number)), CHUNK_TOKENS)
        watchers = {roles[name]: observer for name, observer in observers.items()}
        run_expert(module, routing, number, None if self._twice else target, watchers, self._pool)
        yield Observed(groups=groups, module=module, prefix="", submodules=roles, observers=observers)
        if self._twice:
            run_expert(module, routing, number, target, {}, self._pool)
        module.to_empty(device="meta")

    def _groups(self, index: int) -> tuple[tuple[LinearGroup, ...], dict[int, tuple[LinearGroup, ...]]]:
        """The groups of a layer that are outside of experts, and those of each expert."""
        number = {found.name: found.expert for found in self._family.modules(self._config, index)}
        dense: list[LinearGroup] = []
        experts: dict[int, tuple[LinearGroup, ...]] = {}
        for group in self._family.groups(self._config, index):
            owner = number[group.modules[0]]
            if owner is None:
                dense.append(group)
            else:
                experts[owner] = (*experts.get(owner, ()), group)
        return tuple(dense), experts

    def _observers(
        self, groups: tuple[LinearGroup, ...], needs: Needs, chunks: int, chunk_tokens: int
    ) -> dict[str, InputObserver]:
        wanted = {group.modules[0]: needs(group) for group in groups}
        return {
            name: InputObserver(
                self._shapes[f"{name}.weight"][1],
                max(1, chunks),
                self._device,
                self._gram(self._shapes[f"{name}.weight"][1], number, chunk_tokens) if "gram" in statistics else None,
            )
            for number, (name, statistics) in enumerate(wanted.items())
            if statistics
        }

    def _gram(self, columns: int, number: int, chunk_tokens: int) -> GramMatrix:
        buffer = self._work / f"wave{number}.bin"
        return GramMatrix(columns, wave_chunks(chunk_tokens), chunk_tokens, self._device, buffer)

    def _hidden(self, index: int) -> HiddenStates:
        """What layer `index` reads: two files take turns."""
        return self._states(f"hidden{index % 2}.bin")

    def _states(self, name: str) -> HiddenStates:
        samples, length = self._ids.shape
        shape = (samples, length, self._config.hidden_size)
        return HiddenStates(self._work / name, shape, dtype=self._dtype, device=self._device)
