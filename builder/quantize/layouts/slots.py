"""Where the parts of a linear lie in the files of TensorRT-LLM's ranks, from the place of the linear's weight alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from builder.quantize.formats import Part, Role
from builder.quantize.layouts.base import Entry
from builder.quantize.layouts.parallel import Place
from builder.quantize.layouts.safetensors_writer import Tensors

ROLES: tuple[Role, ...] = get_args(Role)
Shared = Literal["equal", "largest"]
"""What a scale is that several tensors of Hugging Face have in common in one of TensorRT-LLM's: the same number in
each of them, or the largest of their numbers."""

_SUFFIXES = {
    "weight": "weight",
    "bias": "bias",
    "weight_scale": "weights_scaling_factor",
    "weight_scale_2": "weights_scaling_factor_2",
    "input_scale": "activation_scaling_factor",
    "pre_quant_scale": "prequant_scaling_factor",
}
_OWN_SUFFIXES = {("fp8_row", "weight_scale"): "per_channel_scale"}
FILE_ROLES: Mapping[str, Role] = {_SUFFIXES[role]: role for role in ROLES} | {"per_channel_scale": "weight_scale"}
"""What a tensor is to its linear, by the last part of its name."""

_SIGNED = ("int4_group", "w4a8_group")  # upstream prepares packed INT4 for the GPU only where it is int8
_BARE_SCALARS = ("nvfp4",)  # of shape [], as ModelOpt writes them; all others are [1]
_KV_SUFFIXES = ("k_scale", "v_scale")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """`cut` of an entry lies in the tensor `name` of `rank`, from `at_row` on, in the block of `expert`."""

    rank: int
    name: str
    dtype: str
    cut: tuple[slice, ...]
    shape: tuple[int, ...]  # in the file, padding rows included
    at_row: int
    expert: int | None
    shared: Shared | None  # None: nothing else is written there
    offset: float  # the file's value less the entry's


def slots_of(name: str, entry: Entry, places: tuple[Place, ...]) -> Iterator[Slot]:
    """The slots of one tensor. `places` are those of the weight whose rows and columns it has."""
    suffix = name.rpartition(".")[2]
    ranks: set[int] = set()
    for place in places:
        cut = _cut(entry.part, place)
        if entry.part.rows is None and place.rank in ranks:
            continue  # the next slice of a linear that Hugging Face fuses too
        ranks.add(place.rank)
        experts = suffix == "input_scale" and place.expert is not None  # have one for all of them
        pooled = suffix in _KV_SUFFIXES or experts
        yield Slot(
            rank=place.rank,
            name=_name(place, entry, suffix),
            dtype="I8" if suffix == "weight" and entry.format.name in _SIGNED else place.dtype or entry.dtype,
            cut=cut,
            shape=_shape(entry, cut, bare=entry.format.name in _BARE_SCALARS and not experts),
            at_row=0 if entry.part.rows is None else place.at_row // entry.part.rows,
            expert=None if pooled else place.expert,
            shared="largest" if pooled else "equal" if entry.part.rows is None else None,
            offset=place.offset,
        )


def rank_tensors(slots: Iterable[Slot], ranks: int, experts: int) -> list[Tensors]:
    """What each rank's file holds: fused rows add up, experts are stacked before them."""
    held: list[dict[str, tuple[str, tuple[int, ...]]]] = [{} for _ in range(ranks)]
    for slot in slots:
        stack = () if slot.expert is None else (experts,)
        shape = slot.shape
        if slot.shared is None:
            _, known = held[slot.rank].get(slot.name, ("", (*stack, 0)))
            shape = (max(slot.at_row + shape[0], known[len(stack)]), *shape[1:])
        held[slot.rank][slot.name] = (slot.dtype, (*stack, *shape))
    return list(held)


def first_element(slot: Slot, shape: tuple[int, ...]) -> int:
    """Where a slot begins in its tensor of `shape`, in elements."""
    block = shape if slot.expert is None else shape[1:]
    return (slot.expert or 0) * math.prod(block) + slot.at_row * math.prod(block[1:])


def _name(place: Place, entry: Entry, suffix: str) -> str:
    module = place.name.rpartition(".")[0]
    if suffix in _KV_SUFFIXES:
        return f"{module.rpartition('.')[0]}.kv_cache_scaling_factor"
    return f"{module}.{_OWN_SUFFIXES.get((entry.format.name, suffix), _SUFFIXES[suffix])}"


def _cut(part: Part, place: Place) -> tuple[slice, ...]:
    axes = ((place.rows, part.rows), (place.columns, part.columns))
    return tuple(_shrink(held, shared, place.name) for held, shared in axes if shared is not None)


def _shrink(held: slice, shared: int, name: str) -> slice:
    """The elements of a part behind rows or columns of the weight, `shared` of which stand behind each."""
    if held.stop is None:
        return held
    if held.start % shared or held.stop % shared:
        raise RuntimeError(f"{name} is cut at {held.start}:{held.stop}, within {shared} that share an element")
    return slice(held.start // shared, held.stop // shared)


def _shape(entry: Entry, cut: tuple[slice, ...], *, bare: bool) -> tuple[int, ...]:
    if not cut:
        return () if bare else (1,)
    return tuple(
        size if held.stop is None else held.stop - held.start for held, size in zip(cut, entry.shape, strict=True)
    )
