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
