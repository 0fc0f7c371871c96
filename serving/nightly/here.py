"""What this machine has: SKUs and memory."""

from __future__ import annotations

import functools
from pathlib import Path

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


def available_bytes() -> int:
    """RAM that new processes may take, less where a cgroup bounds this one."""
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    try:
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return free
