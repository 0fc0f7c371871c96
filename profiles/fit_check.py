"""Refuse what cannot fit, with the ledger line by line and the smallest change that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from profiles import skus
from profiles.ledger import Ledger, Placement, largest_num_tokens, largest_seq_len, ledger, tp_sizes
from profiles.skus import Sku
from trtllm_kit.errors import FitError, SpecError

_GB = 10**9
_FEWEST_TOKENS = 1024  # below it prefill starves, so it is no remedy
_FEWEST_SEQUENCES = 8


def check_fits(place: Placement) -> Ledger:
    """The ledger, when it fits; FitError with its lines and the smallest change that fits, SpecError for no spread."""
    _check_spread(place)
    made = ledger(place)
    if made.fits:
        return made
    raise FitError(
        f"the model does not fit on {place.sku.id} with tp{place.tp_size}pp{place.pp_size}:"
        f" {made.short_bytes / _GB:.2f} GB are missing\n{table(made)}",
        expected=f"all of it below the memory of {'the slice' if place.sku.mig_profile else 'each GPU'}",
        fix=smallest_change(place),
    )


def smallest_tp(place: Placement) -> int:
    """The fewest GPUs per pipeline stage that hold the model; FitError when no size does."""
    sizes = [1] if place.sku.mig_profile else tp_sizes(place.shape)
    chosen = next((size for size in sizes if ledger(replace(place, tp_size=size)).fits), None)
    if chosen is None:
        check_fits(replace(place, tp_size=sizes[-1]))
        raise AssertionError("the largest size was refused above")
    return chosen


def smallest_slice(place: Placement) -> Sku | None:
    """The MIG slice with the least memory that is enough for all of it; None when only the whole GPU is."""
    whole_id = place.sku.whole_id or place.sku.id
    parts = [part for part in skus.slices().values() if part.whole_id == whole_id and part.whole_share < 1]
    by_size = sorted(parts, key=lambda part: (part.memory_bytes or 0, part.whole_share))
    return next((part for part in by_size if ledger(replace(place, sku=part, tp_size=1, pp_size=1)).fits), None)


def smallest_change(place: Placement) -> str:
    """The first remedy that makes it fit, from a mere setting to another GPU, in words."""
    found = (remedy(place) for remedy in _REMEDIES)
    return next((text for text in found if text), "choose a smaller model: no SKU of the table holds this one")


def table(made: Ledger) -> str:
    """The ledger as aligned lines in GB, with the KV cache of one full sequence, the sum and the memory."""
    rows = [(line.name, line.size_bytes, line.how) for line in made.lines]
    tokens = made.limits.max_seq_len
    rows.append(
        ("KV cache", made.sequence_bytes, f"one sequence of {tokens:,} tokens × {made.kv_token_bytes:,.0f} bytes")
    )
    total = made.used_bytes + made.sequence_bytes
    lines = [f"  {name:<24}{size / _GB:>10.3f} GB  {how}" for name, size, how in rows]
    lines.append(f"  {'together':<24}{total / _GB:>10.3f} GB")
    if made.capacity_bytes is not None:
        share = f"KV pool: {made.limits.free_gpu_memory_fraction:.0%} of what is left"
        lines.append(f"  {'memory':<24}{made.capacity_bytes / _GB:>10.3f} GB  {share}")
    return "\n".join(lines)


def _check_spread(place: Placement) -> None:
    shape, tp_size, pp_size = place.shape, place.tp_size, place.pp_size
    if place.sku.mig_profile and tp_size * pp_size > 1:
        raise SpecError(
            f"tp{tp_size}pp{pp_size} on {place.sku.id}: MIG slices cannot reach each other's memory",
            expected="tp 1 and pp 1 on a slice",
            fix=f"use {place.sku.whole_id}, or leave the sizes out",
        )
    if shape.num_attention_heads % tp_size:
        raise SpecError(
            f"tp{tp_size} does not divide {shape.num_attention_heads} attention heads",
            expected="a TP size of " + ", ".join(map(str, tp_sizes(shape))),
            fix="choose one of them",
        )


def _fewer_tokens(place: Placement) -> str:
    most = largest_num_tokens(place)
    return f"lower build.max_num_tokens to {most}" if _FEWEST_TOKENS <= most < place.limits.max_num_tokens else ""


def _fewer_sequences(place: Placement) -> str:
    size = place.limits.max_batch_size // 2
    while size >= _FEWEST_SEQUENCES:
        if ledger(place.with_limits(max_batch_size=size)).fits:
            return f"lower build.max_batch_size to {size}"
        size //= 2
    return ""


def _shorter(place: Placement) -> str:
    longest = largest_seq_len(place)
    return f"lower build.max_seq_len to {longest}" if _FEWEST_TOKENS <= longest < place.limits.max_seq_len else ""


def _smaller_kv(place: Placement) -> str:
    if place.limits.kv_bits <= 8 or not ledger(place.with_limits(kv_bits=8)).fits:
        return ""
    return "set kv_cache.dtype to fp8"


def _wider(place: Placement) -> str:
    if place.sku.mig_profile:  # slices cannot reach each other's memory
        return ""
    sizes = [size for size in tp_sizes(place.shape) if size > place.tp_size]
    size = next((size for size in sizes if ledger(replace(place, tp_size=size)).fits), None)
    return f"set target.tp_size to {size}" if size else ""


def _fewer_bits(place: Placement) -> str:
    for bits in (8.0, 4.5, 4.125):
        if bits < place.weight_bits and ledger(replace(place, weight_bits=bits)).fits:
            return f"choose a precision with {bits:g} bits a weight"
    return ""


def _larger_gpu(place: Placement) -> str:
    if place.sku.whole_id and ledger(replace(place, sku=skus.find(place.sku.whole_id))).fits:
        return f"use the whole {place.sku.whole_id}"
    larger = sorted((sku for sku in skus.skus().values() if sku.memory_bytes), key=lambda sku: sku.memory_bytes or 0)
    found = next((sku for sku in larger if ledger(replace(place, sku=sku)).fits), None)
    return f"set target.sku to {found.id}" if found else ""


_REMEDIES: tuple[Callable[[Placement], str], ...] = (
    _fewer_tokens,
    _fewer_sequences,
    _shorter,
    _smaller_kv,
    _wider,
    _fewer_bits,
    _larger_gpu,
)
"""From the smallest change to the largest."""
