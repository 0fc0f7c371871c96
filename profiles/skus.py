"""GPU SKUs as data: what each accelerator is, with the source of every figure."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from profiles.tables import number, rows
from trtllm_kit.errors import SpecError

MIB = 1 << 20
_GB = 10**9
_RATES = {"bf16": "bf16_tflops", "fp8": "fp8_tflops", "int8": "int8_tops", "fp4": "fp4_tflops"}


@dataclass(frozen=True, kw_only=True)
class MigProfile:
    """One way to slice a GPU: `name` such as "1g.10gb", and what part of the whole each instance gets."""

    name: str
    max_instances: int
    memory_share: Fraction
    compute_share: Fraction


@dataclass(frozen=True, kw_only=True)
class Sku:
    """One accelerator. Empty facts are None: not confirmed, never guessed."""

    id: str  # "h100_sxm"
    name: str  # "H100 SXM5 80GB"
    arch: str  # "Hopper"; "cpu" for the cpu SKU
    sm: int | None  # 90 for compute capability 9.0; None for cpu
    memory_gb: float | None  # as marketed
    nvml_memory_mib: int | None = None  # as the driver reports it
    bandwidth_gbs: float | None = None
    dense_tflops: Mapping[str, float | None] = field(default_factory=dict)  # bf16, fp8, int8, fp4; 0: no such unit
    nvlink_gbs: float | None = None  # both directions together; 0: none
    pcie: str = ""
    tdp_w: float | None = None
    mig_profiles: tuple[MigProfile, ...] = ()
    nvml_names: tuple[str, ...] = ()
    pci_device_ids: tuple[str, ...] = ()  # four upper-case hex digits
    k8s_label: str = ""  # value of nvidia.com/gpu.product
    trtllm_supported: bool = True
    source: str = ""
    date: str = ""  # when the source was read, YYYY-MM-DD
    note: str = ""

    @property
    def memory_bytes(self) -> int | None:
        """What the driver reports; where that is not confirmed, the marketed size, which is never more."""
        if self.nvml_memory_mib is not None:
            return self.nvml_memory_mib * MIB
        return None if self.memory_gb is None else int(self.memory_gb * _GB)

    @property
    def is_cpu(self) -> bool:
        """Whether this is the machine's processor and no GPU."""
        return self.arch == "cpu"


@functools.cache
def skus() -> Mapping[str, Sku]:
    """All SKUs by id, in the table's order."""
    return {row["id"]: _sku(row) for row in rows("skus")}


def find(sku_id: str) -> Sku:
    """The SKU of that id; SpecError names the nearest ids."""
    known = skus()
    if sku_id in known:
        return known[sku_id]
    raise SpecError(
        f"unknown SKU '{sku_id}'",
        expected="one of " + ", ".join(known),
        fix=f"did you mean {' or '.join(nearest(sku_id))}?",
    )


def nearest(text: str) -> list[str]:
    """Up to three SKU ids that a person may have meant, best first."""
    wanted = text.lower().replace("-", "_").replace(" ", "_")
    starts = [sku_id for sku_id in skus() if sku_id.startswith(wanted) or wanted.startswith(sku_id)] if wanted else []
    alike = difflib.get_close_matches(wanted, skus(), n=3, cutoff=0.0)
    return list(dict.fromkeys((*starts, *alike)))[:3]


def _sku(row: Mapping[str, str]) -> Sku:
    return Sku(
        id=row["id"],
        name=row["name"],
        arch=row["arch"],
        sm=int(row["sm"]) if row["sm"] else None,
        memory_gb=number(row["memory_gb"]),
        nvml_memory_mib=int(row["nvml_memory_mib"]) if row["nvml_memory_mib"] else None,
        bandwidth_gbs=number(row["mem_bw_gbs"]),
        dense_tflops={name: number(row[column]) for name, column in _RATES.items()},
        nvlink_gbs=number(row["nvlink_gbs"]),
        pcie=row["pcie"],
        tdp_w=number(row["tdp_w"]),
        mig_profiles=tuple(_mig(cell) for cell in row["mig_profiles"].split(";") if cell),
        nvml_names=_names(row["nvml_names"]),
        pci_device_ids=_names(row["pci_device_ids"]),
        k8s_label=row["k8s_label"],
        trtllm_supported=row["trtllm_supported"] == "yes",
        source=row["source"],
        date=row["date"],
        note=row["note"],
    )


def _mig(cell: str) -> MigProfile:
    name, count, memory, compute = cell.split()
    return MigProfile(
        name=name, max_instances=int(count), memory_share=Fraction(memory), compute_share=Fraction(compute)
    )


def _names(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(";")) if cell else ()
