"""GPU SKUs as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sku:
    """One accelerator. Empty facts are None: not confirmed, never guessed."""

    id: str  # "h100_sxm"
    name: str  # "H100 SXM5 80GB"
    arch: str  # "Hopper"; "cpu" for the cpu SKU
    sm: int | None  # 90 for compute capability 9.0; None for cpu
    memory_gb: float | None
    nvml_names: tuple[str, ...] = ()
    pci_device_ids: tuple[str, ...] = ()
