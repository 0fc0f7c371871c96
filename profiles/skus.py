"""GPU SKUs as data: what each accelerator is, with the source of every figure; MIG slices are derived from them."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from profiles.tables import number, rows
from trtllm_kit.errors import SpecError

MIB = 1 << 20
_GB = 10**9
_MIG_SUFFIX = re.compile(r"[:_-](?P<compute>[1-9]g)[._](?P<memory>[1-9][0-9]*gb)(?:\+me)?")
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
    mig_profile: str = ""  # "3g.40gb" for a slice; a slice has no NVLink and no peer access, so TP and PP stay 1
    whole_id: str = ""  # for a slice: the SKU that it is cut from
    whole_share: Fraction = Fraction(1)  # of the whole GPU's price: one of so many equal slices

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


@functools.cache
def slices() -> Mapping[str, Sku]:
    """Every MIG slice of every SKU, by id."""
    cut = [_slice(sku, profile) for sku in skus().values() for profile in sku.mig_profiles]
    return {part.id: part for part in cut}


def slice_id(whole_id: str, profile: str) -> str:
    """The id of a MIG slice, in the alphabet of all ids: `h100_sxm` and `3g.40gb` make `h100_sxm_3g_40gb`."""
    return f"{whole_id}_{profile.removesuffix('+me').replace('.', '_')}"


def find(sku_id: str) -> Sku:
    """The SKU of that id; SpecError names the nearest ids.

    A MIG slice is `<sku>_<profile>`; NVIDIA's own spelling of the profile is understood too: `h100_sxm:3g.40gb`.
    """
    known = skus()
    if sku_id in known:
        return known[sku_id]
    if (cut := _MIG_SUFFIX.search(sku_id)) and cut.end() == len(sku_id):
        return _find_slice(find(sku_id[: cut.start()]), f"{cut['compute']}.{cut['memory']}")
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


def _find_slice(whole: Sku, profile: str) -> Sku:
    part = slices().get(slice_id(whole.id, profile))
    if part is not None:
        return part
    names = [row.name for row in whole.mig_profiles]
    near = difflib.get_close_matches(profile, names, n=1, cutoff=0.0)
    raise SpecError(
        f"{whole.id} has no MIG profile '{profile}'",
        expected="one of " + ", ".join(names) if names else f"a whole {whole.name}, which MIG does not cut",
        fix=f"did you mean {slice_id(whole.id, near[0])}?" if near else f"use {whole.id}",
    )


def _slice(whole: Sku, profile: MigProfile) -> Sku:
    """One instance of a profile: its part of the memory, of its bandwidth and of the compute units."""
    memory_gb = float(profile.name.partition(".")[2].removesuffix("gb"))
    return replace(
        whole,
        id=slice_id(whole.id, profile.name),
        name=f"{whole.name} MIG {profile.name}",
        memory_gb=memory_gb,
        nvml_memory_mib=None,
        bandwidth_gbs=_part(whole.bandwidth_gbs, profile.memory_share),
        dense_tflops={kind: _part(rate, profile.compute_share) for kind, rate in whole.dense_tflops.items()},
        nvlink_gbs=0,
        mig_profiles=(),
        nvml_names=tuple(f"{name} MIG {profile.name}" for name in whole.nvml_names),
        pci_device_ids=(),
        k8s_label=f"{whole.k8s_label}-MIG-{profile.name}",
        note=f"{profile.memory_share} of the memory, {profile.compute_share} of the compute of {whole.id}",
        mig_profile=profile.name,
        whole_id=whole.id,
        whole_share=Fraction(1, profile.max_instances),
    )


def _part(figure: float | None, share: Fraction) -> float | None:
    return None if figure is None else float(figure * share)


def _mig(cell: str) -> MigProfile:
    name, count, memory, compute = cell.split()
    return MigProfile(
        name=name, max_instances=int(count), memory_share=Fraction(memory), compute_share=Fraction(compute)
    )


def _names(cell: str) -> tuple[str, ...]:
    return tuple(cell.split(";")) if cell else ()
