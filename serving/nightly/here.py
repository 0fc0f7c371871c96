"""Which SKUs this machine has."""

from __future__ import annotations

import functools

from profiles.detect import detect


@functools.cache
def gpu_indices() -> dict[str, list[int]]:
    """NVML's indices of the whole GPUs here, by SKU; one that is cut into MIG slices is none of them."""
    found: dict[str, list[int]] = {}
    for gpu in detect().gpus:
        if gpu.sku is not None and not gpu.reading.mig_enabled:
            found.setdefault(gpu.sku.id, []).append(gpu.index)
    return found


def is_here(sku: str) -> bool:
    """Whether a build for `sku` can run on this machine; every machine has a `cpu`."""
    return sku == "cpu" or sku in gpu_indices()
