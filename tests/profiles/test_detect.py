"""From what a driver says to SKUs, on recorded readings."""

# ruff: noqa: N802, N818 (NVML's own names)

from __future__ import annotations

import sys
import types

import pytest

from profiles.detect import GpuReading, MigSlice, Snapshot, detect, identify
from profiles.skus import skus


def reading(name: str, device: str, **changes: object) -> Snapshot:
    gpu = GpuReading(index=0, name=name, uuid="GPU-1", pci_device_id=device, sm=90, memory_bytes=85 * 10**9, **changes)
    return Snapshot(driver_version="590.44", cuda_version="13.1", gpus=(gpu,))


def only(snapshot: Snapshot) -> tuple[str | None, str]:
    (gpu,) = identify(snapshot).gpus
    return gpu.sku.id if gpu.sku else None, gpu.how


@pytest.mark.parametrize("sku", [sku for sku in skus().values() if not sku.is_cpu], ids=lambda sku: sku.id)
def test_every_sku_is_found_by_id_and_by_name(sku) -> None:
    assert only(reading("A Name Nobody Gave", sku.pci_device_ids[0]))[0] == sku.id
    for name in sku.nvml_names:
        assert only(reading(name, "FFFF")) == (sku.id, f"name {name}")


def test_the_device_id_wins_over_the_name() -> None:
    assert only(reading("NVIDIA A100-SXM4-80GB", "2330")) == ("h100_sxm", "PCI id 2330")


@pytest.mark.parametrize(
    "name", ["NVIDIA L40", "NVIDIA H100", "HBM3", "NVIDIA A100 80GB", "PCIe", "", "NVIDIA H100 80GB HBM3 v2"]
)
def test_half_a_name_is_no_name(name: str) -> None:
    sku, how = only(reading(name, "26B5"))
    assert sku is None
    assert "26B5" in how


def test_a_mig_slice_keeps_its_gpu() -> None:
    part = MigSlice(profile="1g.10gb", memory_bytes=9984 << 20, uuid="MIG-1")
    found = identify(reading("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "FFFF", mig_enabled=True, mig_slices=(part,)))
    assert found.skus == ("h100_sxm",)
    assert found.gpus[0].reading.mig_slices == (part,)
    assert [cut.id for cut in found.gpus[0].slices if cut] == ["h100_sxm_1g_10gb"]


@pytest.mark.parametrize(("profile", "sku"), [("1g.10gb+me", "h100_sxm_1g_10gb"), ("9g.99gb", None), ("unknown", None)])
def test_a_slice_is_known_by_its_profile(profile: str, sku: str | None) -> None:
    part = MigSlice(profile=profile, memory_bytes=9984 << 20, uuid="MIG-1")
    (gpu,) = identify(reading("NVIDIA H100 80GB HBM3", "2330", mig_enabled=True, mig_slices=(part,))).gpus
    assert [cut and cut.id for cut in gpu.slices] == [sku]


def test_with_mig_on_a_process_gets_slices_and_never_the_whole() -> None:
    parts = tuple(MigSlice(profile=name, memory_bytes=1 << 30, uuid=name) for name in ("3g.40gb", "9g.99gb"))
    cut = reading("NVIDIA H100 80GB HBM3", "2330", mig_enabled=True, mig_slices=parts).gpus[0]
    whole = reading("NVIDIA L4", "27B8").gpus[0]
    places = identify(Snapshot(gpus=(cut, whole))).places
    assert [place.id for place in places] == ["h100_sxm_3g_40gb", "h100_sxm_9g_99gb", "l4"]
    assert [place.sku and place.sku.id for place in places] == ["h100_sxm_3g_40gb", None, "l4"]
    assert [place.is_slice for place in places] == [True, True, False]
    assert identify(reading("NVIDIA H100 80GB HBM3", "2330", mig_enabled=True)).places == ()


def test_several_gpus_are_kept_apart() -> None:
    first = reading("NVIDIA L4", "27B8").gpus[0]
    second = reading("NVIDIA H200", "2335").gpus[0]
    found = identify(Snapshot(gpus=(first, second, first)))
    assert [gpu.sku.id for gpu in found.gpus if gpu.sku] == ["l4", "h200_sxm", "l4"]
    assert found.skus == ("l4", "h200_sxm")


def test_no_driver_gives_a_reason_and_no_gpu() -> None:
    found = identify(Snapshot(reason="no driver"))
    assert (found.gpus, found.reason, found.driver_version) == ((), "no driver", None)


def test_this_machine_answers_either_way() -> None:
    found = detect()
    assert bool(found.gpus) != bool(found.reason)


class Nvml(types.ModuleType):
    """NVML's Python binding on a machine with one H100 cut by MIG and one L4."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801
        pass

    class NVMLError_NotFound(NVMLError):  # noqa: N801
        pass

    def __init__(self, broken_at: str = "") -> None:
        super().__init__("pynvml")
        self.broken_at = broken_at
        self.is_open = False

    def nvmlInit(self) -> None:
        self._fail("init")
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13010

    def nvmlSystemGetDriverVersion(self) -> str:
        return "590.44"

    def nvmlDeviceGetCount(self) -> int:
        self._fail("count")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return ("NVIDIA H100 80GB HBM3", "NVIDIA L4")[index]

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:
        return (9, 0) if "H100" in handle else (8, 9)

    def nvmlDeviceGetName(self, handle: str) -> str | bytes:
        return handle.encode() if "L4" in handle else handle

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return f"uuid of {handle}"

    def nvmlDeviceGetPciInfo(self, handle: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(pciDeviceId=0x233010DE if "H100" in handle else 0x27B810DE)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(total=(9984 if "MIG" in handle else 81920) << 20)

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if "L4" in handle:
            raise self.NVMLError_NotSupported
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        if index not in (1, 4):
            raise self.NVMLError_NotFound
        return f"{handle} MIG 1g.10gb"

    def _fail(self, where: str) -> None:
        if self.broken_at == where:
            raise self.NVMLError("the driver is upset")


def test_a_driver_is_read_with_its_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = detect()
    assert (found.driver_version, found.cuda_version, found.reason) == ("590.44", "13.1", "")
    assert found.skus == ("h100_sxm", "l4")
    h100, l4 = (gpu.reading for gpu in found.gpus)
    assert (h100.sm, h100.memory_bytes, h100.mig_enabled) == (90, 81920 << 20, True)
    assert [(part.profile, part.memory_bytes) for part in h100.mig_slices] == [("1g.10gb", 9984 << 20)] * 2
    assert (l4.name, l4.mig_enabled, l4.mig_slices) == ("NVIDIA L4", False, ())
    assert not nvml.is_open


@pytest.mark.parametrize("broken_at", ["init", "count"])
def test_a_driver_that_errs_is_a_reason(broken_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(broken_at)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = detect()
    assert found.gpus == ()
    assert "the driver is upset" in found.reason
    assert not nvml.is_open
