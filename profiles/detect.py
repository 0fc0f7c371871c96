"""Which GPUs this machine has, by NVML: the PCI device id decides the SKU, the exact product name is second.

`snapshot` asks the driver and returns plain values; `identify` turns such values into SKUs, so that a recording of
another machine can be looked at anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from profiles.skus import Sku, skus, slice_id, slices

_MIG_NAME = re.compile(r"\s+MIG\s+(?P<profile>\S+)$")


@dataclass(frozen=True, kw_only=True)
class MigSlice:
    """One MIG instance of a GPU."""

    profile: str  # "1g.10gb"
    memory_bytes: int
    uuid: str


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """What the driver says about one GPU."""

    index: int
    name: str  # "NVIDIA H100 80GB HBM3"
    uuid: str
    pci_device_id: str  # "2330", as in the SKU table
    sm: int | None  # 90 for compute capability 9.0
    memory_bytes: int
    mig_enabled: bool = False
    mig_slices: tuple[MigSlice, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What NVML said; `reason` says why `gpus` is empty when it is."""

    driver_version: str | None = None
    cuda_version: str | None = None  # the newest that the driver can run, "12.8"
    gpus: tuple[GpuReading, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class DetectedGpu:
    """A GPU with its SKU; `sku` is None for one that the table does not have."""

    reading: GpuReading
    sku: Sku | None
    how: str  # "PCI id 2330", "name NVIDIA L4" or why it is unknown

    @property
    def index(self) -> int:
        """NVML's index of the GPU."""
        return self.reading.index

    @property
    def name(self) -> str:
        """The product name that the driver reports."""
        return self.reading.name

    @property
    def slices(self) -> tuple[Sku | None, ...]:
        """The SKUs of its MIG slices, in the reading's order; None for a profile that the table does not have."""
        whole = self.sku.id if self.sku else ""
        return tuple(slices().get(slice_id(whole, part.profile)) for part in self.reading.mig_slices)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a process can be given: a whole GPU, or one slice where MIG is on, for then the driver hides the whole."""

    id: str | None  # of the SKU; a slice has one even where the table does not have its profile
    sku: Sku | None
    gpu: DetectedGpu

    @property
    def is_slice(self) -> bool:
        """Whether this is a part of a GPU. A process sees one, so there is no TP over several."""
        return self.gpu.reading.mig_enabled


@dataclass(frozen=True, kw_only=True)
class Detection:
    """The GPUs of a machine. `reason` says why there are none when there are none."""

    driver_version: str | None
    cuda_version: str | None
    gpus: tuple[DetectedGpu, ...]
    reason: str

    @property
    def skus(self) -> tuple[str, ...]:
        """Ids of the whole GPUs' SKUs found, each once."""
        return tuple(dict.fromkeys(gpu.sku.id for gpu in self.gpus if gpu.sku))

    @property
    def places(self) -> tuple[Place, ...]:
        """All that processes can be given here, in NVML's order; a GPU with MIG on and no slice gives none."""
        return tuple(place for gpu in self.gpus for place in _places(gpu))


def detect() -> Detection:
    """The GPUs of this machine."""
    return identify(snapshot())


def identify(readings: Snapshot) -> Detection:
    """SKUs for what a driver said."""
    return Detection(
        driver_version=readings.driver_version,
        cuda_version=readings.cuda_version,
        gpus=tuple(_identify(reading) for reading in readings.gpus),
        reason=readings.reason,
    )


def _identify(reading: GpuReading) -> DetectedGpu:
    device = reading.pci_device_id.upper()
    for sku in skus().values():
        if device in sku.pci_device_ids:
            return DetectedGpu(reading=reading, sku=sku, how=f"PCI id {device}")
    name = _plain(reading.name)
    for sku in skus().values():
        if name in map(_plain, sku.nvml_names):
            return DetectedGpu(reading=reading, sku=sku, how=f"name {reading.name}")
    how = f"PCI id {device} and name '{reading.name}' are not in the SKU table"
    return DetectedGpu(reading=reading, sku=None, how=how)


def _places(gpu: DetectedGpu) -> tuple[Place, ...]:
    whole = gpu.sku.id if gpu.sku else None
    if not gpu.reading.mig_enabled:
        return (Place(id=whole, sku=gpu.sku, gpu=gpu),)
    cuts = zip(gpu.reading.mig_slices, gpu.slices, strict=True)
    return tuple(Place(id=whole and slice_id(whole, part.profile), sku=sku, gpu=gpu) for part, sku in cuts)


def _plain(name: str) -> str:
    """Names compare whole: 'NVIDIA L40' is not an L40S, and the last word of a name says nothing."""
    return _MIG_NAME.sub("", name).casefold().removeprefix("nvidia ").strip()


def snapshot() -> Snapshot:
    """Ask NVML; a machine without driver or GPU gives an empty snapshot with the reason."""
    try:
        import pynvml
    except ImportError:
        return Snapshot(reason="the nvidia-ml-py package is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Snapshot(reason=f"no NVIDIA driver answers on this machine ({error})")
    try:
        return _read(pynvml)
    except pynvml.NVMLError as error:
        return Snapshot(reason=f"the NVIDIA driver answers with an error ({error})")
    finally:
        pynvml.nvmlShutdown()


def _read(nvml: Any) -> Snapshot:
    cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
    gpus = tuple(_read_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    return Snapshot(
        driver_version=_text(nvml.nvmlSystemGetDriverVersion()),
        cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}",
        gpus=gpus,
        reason="" if gpus else "the NVIDIA driver is there and sees no GPU",
    )


def _read_gpu(nvml: Any, index: int) -> GpuReading:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    slices = _read_slices(nvml, handle)
    return GpuReading(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        # NVML packs the device id above the vendor id, 0x233010DE for an H100 SXM.
        pci_device_id=f"{nvml.nvmlDeviceGetPciInfo(handle).pciDeviceId >> 16:04X}",
        sm=major * 10 + minor,
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        mig_enabled=slices is not None,
        mig_slices=slices or (),
    )


def _read_slices(nvml: Any, handle: Any) -> tuple[MigSlice, ...] | None:
    """The GPU's MIG instances; None where MIG is off or unknown to the GPU."""
    try:
        enabled, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return None
    if not enabled:
        return None
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError_NotFound:  # instance numbers have gaps
            continue
        match = _MIG_NAME.search(_text(nvml.nvmlDeviceGetName(instance)))
        found.append(
            MigSlice(
                profile=match["profile"] if match else "unknown",
                memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(instance).total),
                uuid=_text(nvml.nvmlDeviceGetUUID(instance)),
            )
        )
    return tuple(found)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
