"""The table of SKUs: ids, units, and that no fact is invented."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from profiles import skus
from trtllm_kit.errors import SpecError
from trtllm_kit.identifier import BuildIdentifier

ALL = skus.skus()


def test_every_sku_that_the_kit_promises_is_there() -> None:
    promised = (
        "h100_sxm h100_pcie h100_nvl h200_sxm h200_nvl gh200_96gb a100_sxm_80gb a100_sxm_40gb a100_pcie_80gb l40s l4 "
        "a10g a30 t4 rtx_4090 rtx_5090 rtx_pro_6000 b200_sxm gb200 b300_sxm gb300 cpu"
    )
    assert set(promised.split()) <= ALL.keys()


@pytest.mark.parametrize("sku", ALL.values(), ids=lambda sku: sku.id)
def test_a_sku_is_complete_enough_to_be_used(sku: skus.Sku) -> None:
    name = f"m-bf16-{sku.id}-tp1pp1-cpu"
    assert BuildIdentifier.parse(name).sku == sku.id
    assert sku.source
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", sku.date)
    if sku.is_cpu:
        assert (sku.sm, sku.memory_bytes) == (None, None)
        return
    assert sku.sm in (75, 80, 86, 89, 90, 100, 103, 120)
    assert sku.memory_bytes is not None
    assert sku.memory_gb is not None
    assert 0.99 * sku.memory_gb * 10**9 <= sku.memory_bytes <= sku.memory_gb * 2**30
    assert all(re.fullmatch("[0-9A-F]{4}", device) for device in sku.pci_device_ids)
    assert sku.nvml_names


def test_no_two_skus_share_a_device_or_a_name() -> None:
    for attribute in ("pci_device_ids", "nvml_names"):
        values = [value for sku in ALL.values() for value in getattr(sku, attribute)]
        assert len(values) == len(set(values))


def test_the_h100_as_published() -> None:
    h100 = skus.find("h100_sxm")
    assert (h100.sm, h100.bandwidth_gbs, h100.nvlink_gbs, h100.tdp_w) == (90, 3350, 900, 700)
    assert h100.dense_tflops == {"bf16": 989, "fp8": 1979, "int8": 1979, "fp4": 0}
    assert h100.mig_profiles[0] == skus.MigProfile(
        name="1g.10gb", max_instances=7, memory_share=Fraction(1, 8), compute_share=Fraction(1, 7)
    )


def test_an_unconfirmed_fact_is_none_and_an_absent_unit_is_zero() -> None:
    a10g = skus.find("a10g")
    assert a10g.dense_tflops["bf16"] is None
    assert a10g.dense_tflops["fp8"] == 0
    assert skus.find("gh200_96gb").bandwidth_gbs is None


@pytest.mark.parametrize("sku", ALL.values(), ids=lambda sku: sku.id)
def test_mig_slices_are_parts_of_the_whole(sku: skus.Sku) -> None:
    for profile in sku.mig_profiles:
        assert profile.max_instances * profile.memory_share <= 1
        assert profile.max_instances * profile.compute_share <= 1


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("h100", "h100_sxm"),
        ("H100-SXM", "h100_sxm"),
        ("a100-80gb", "a100_sxm_80gb"),
        ("l40", "l40s"),
        ("b200", "b200_sxm"),
    ],
)
def test_a_wrong_id_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(SpecError) as caught:
        skus.find(typed)
    assert meant in caught.value.fix


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(SpecError):
        skus.find("")


# Memory that the driver reports for an instance, MiB (NVIDIA MIG user guide, `nvidia-smi mig -lgip`).
REPORTED = {
    "a100_sxm_40gb:1g.5gb": 4864,
    "a100_sxm_40gb:3g.20gb": 19968,
    "a100_sxm_80gb:1g.10gb": 9728,
    "h100_sxm:1g.10gb": 9984,
    "h100_sxm:3g.40gb": 40448,
}


@pytest.mark.parametrize(("sku_id", "mib"), REPORTED.items())
def test_a_slice_claims_no_more_memory_than_the_driver_gives(sku_id: str, mib: int) -> None:
    part = skus.find(sku_id)
    assert part.memory_bytes is not None
    assert 0.93 * mib * skus.MIB <= part.memory_bytes <= mib * skus.MIB


def test_a_slice_has_its_part_of_everything() -> None:
    part = skus.find("h100_sxm:3g.40gb")
    assert part == skus.find("h100_sxm_3g_40gb") == skus.find("h100_sxm-3g.40gb")
    assert part.id == skus.slice_id("h100_sxm", "3g.40gb") == skus.slice_id("h100_sxm", "3g.40gb+me")
    assert (part.bandwidth_gbs, part.nvlink_gbs, part.whole_id, part.whole_share) == (
        1675,
        0,
        "h100_sxm",
        Fraction(1, 2),
    )
    assert part.dense_tflops["bf16"] == pytest.approx(989 * 3 / 7)
    assert part.dense_tflops["fp4"] == 0
    assert BuildIdentifier.parse(f"m-fp8-{part.id}-tp1pp1-tensorrt").sku == part.id


@pytest.mark.parametrize("part", skus.slices().values(), ids=lambda part: part.id)
def test_every_slice_is_found_by_its_id_and_smaller_than_the_whole(part: skus.Sku) -> None:
    whole = skus.find(part.whole_id)
    assert skus.find(part.id) is part
    assert skus.find(f"{whole.id}:{part.mig_profile}") is part
    assert part.memory_bytes is not None
    assert whole.memory_bytes is not None
    assert part.memory_bytes <= whole.memory_bytes
    assert part.k8s_label == f"{whole.k8s_label}-MIG-{part.mig_profile}"


@pytest.mark.parametrize(
    ("typed", "meant"), [("h100_sxm:3g.41gb", "h100_sxm_3g_40gb"), ("l4:1g.5gb", "l4"), ("h10:3g.40gb", "h100_sxm")]
)
def test_a_wrong_slice_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(SpecError) as caught:
        skus.find(typed)
    assert meant in caught.value.fix
