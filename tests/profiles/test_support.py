"""What runs where, cell by cell, and what a refusal offers instead."""

from __future__ import annotations

import re

import pytest

from profiles import precisions, support
from profiles.skus import find, skus
from profiles.versions import DEFAULT
from profiles.versions import find as find_release
from trtllm_kit.errors import SpecError

ALL = tuple(precisions.precisions())

POSSIBLE = [
    ("tensorrt", "bf16", "auto", "a100_sxm_80gb", DEFAULT),
    ("tensorrt", "int8_sq", "int8", "h100_sxm", DEFAULT),
    ("tensorrt", "int4_awq", "fp8", "rtx_5090", DEFAULT),
    ("tensorrt", "fp8", "fp8", "b200_sxm", DEFAULT),
    ("tensorrt", "nvfp4", "fp8", "gb300", DEFAULT),
    ("tensorrt", "bf16", "auto", "l4", "0.16.0"),
    ("pytorch", "fp8", "nvfp4", "b200_sxm", DEFAULT),
    ("pytorch", "int4_awq", "auto", "b300_sxm", DEFAULT),
    ("pytorch", "fp8_block", "auto", "h200_sxm", "1.3.0rc24"),
    ("cpu", "nvfp4", "auto", "cpu", DEFAULT),
    ("cpu", "bf16", "float32", "cpu", DEFAULT),
]


@pytest.mark.parametrize("cell", POSSIBLE)
def test_a_possible_cell_passes(cell: tuple) -> None:
    runtime, precision, kv_dtype, sku, version = cell
    support.check(runtime, precision, kv_dtype, find(sku), version)


IMPOSSIBLE = [
    (("tensorrt", "int8_wo", "auto", "b200_sxm", DEFAULT), "weight-only INT8 on SM 100", "precision to fp8"),
    (("tensorrt", "int4_awq", "auto", "b300_sxm", DEFAULT), "AWQ on SM 100", "runtime to pytorch"),
    (("tensorrt", "bf16", "int8", "gb200", DEFAULT), "INT8 KV cache on SM 100", "kv_cache.dtype to auto"),
    (("tensorrt", "fp8", "auto", "a100_sxm_80gb", DEFAULT), "FP8 needs Ada", "precision to int8_sq"),
    (("tensorrt", "fp8_block", "auto", "h100_sxm", DEFAULT), "no layout", "runtime to pytorch"),
    (("tensorrt", "bf16", "auto", "h100_sxm", "1.3.0rc24"), "before 1.3.0rc21", "runtime to pytorch"),
    (("pytorch", "int8_sq", "auto", "h100_sxm", DEFAULT), "no SmoothQuant", "runtime to tensorrt"),
    (("pytorch", "bf16", "int8", "h100_sxm", DEFAULT), "no INT8 KV", "runtime to tensorrt"),
    (("pytorch", "bf16", "auto", "h100_sxm", "0.21.0"), "from TensorRT-LLM 1.0.0 on", "runtime to tensorrt"),
    (("pytorch", "int4_awq", "auto", "rtx_5090", DEFAULT), "AWQ with 16-bit", "runtime to tensorrt"),
    (("tensorrt", "fp16", "auto", "t4", DEFAULT), "does not support Turing", "target.sku to a10g"),
    (("tensorrt", "bf16", "auto", "cpu", DEFAULT), "needs an NVIDIA GPU", "runtime to cpu"),
    (("cpu", "bf16", "auto", "l4", DEFAULT), "for the cpu SKU", "runtime to tensorrt"),
    (("cpu", "bf16", "fp8", "cpu", DEFAULT), "no FP8 KV", "kv_cache.dtype to auto"),
    (("tensorrt", "bf16", "float32", "l4", DEFAULT), "model's dtype", "kv_cache.dtype to auto"),
]


@pytest.mark.parametrize(("cell", "reason", "offer"), IMPOSSIBLE)
def test_an_impossible_cell_says_why_and_what_is_nearest(cell: tuple, reason: str, offer: str) -> None:
    runtime, precision, kv_dtype, sku, version = cell
    with pytest.raises(SpecError, match=reason) as caught:
        support.check(runtime, precision, kv_dtype, find(sku), version)
    assert offer in caught.value.fix


def test_what_a_refusal_offers_is_possible_in_every_cell_of_the_table() -> None:
    refused = 0
    for runtime in support.RUNTIMES:
        for precision in ALL:
            for kv_dtype in precisions.KV_DTYPES:
                for sku in {sku.sm: sku for sku in skus().values()}.values():
                    for version in ("0.16.0", DEFAULT, "1.3.0rc24"):
                        try:
                            support.check(runtime, precision, kv_dtype, sku, version)
                        except SpecError as error:
                            refused += 1
                            assert follow(error.fix, runtime, precision, kv_dtype, sku.id, version), error
    assert refused > 1000


def follow(fix: str, runtime: str, precision: str, kv_dtype: str, sku: str, version: str) -> bool:
    """Whether doing what `fix` says leads to a possible cell."""
    cell = {
        "runtime": runtime,
        "precision": precision,
        "kv_cache.dtype": kv_dtype,
        "target.sku": sku,
        "trtllm_version": version,
    }
    for key, value in re.findall(r"([\w.]+) to ([\w.]+)", fix):
        assert key in cell
        cell[key] = value
    return support.is_possible(
        cell["runtime"], cell["precision"], cell["kv_cache.dtype"], find(cell["target.sku"]), cell["trtllm_version"]
    )


def test_only_precisions_that_can_be_built_are_offered() -> None:
    with pytest.raises(SpecError) as caught:
        support.check("tensorrt", "int8_wo", "auto", find("b200_sxm"), DEFAULT, available=("bf16", "int8_wo"))
    assert caught.value.fix == "set precision to bf16"


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match="unknown precision 'fp7'"):
        support.check("tensorrt", "fp7", "auto", find("l4"), DEFAULT)
    with pytest.raises(SpecError, match=r"unknown kv_cache\.dtype 'int3'"):
        support.check("tensorrt", "bf16", "int3", find("l4"), DEFAULT)


@pytest.mark.parametrize(
    ("sku", "precision", "version", "runtime"),
    [
        ("cpu", "bf16", DEFAULT, "cpu"),
        ("h100_sxm", "bf16", DEFAULT, "tensorrt"),
        ("h100_sxm", "fp8_block", DEFAULT, "pytorch"),
        ("h100_sxm", "bf16", "1.3.0rc24", "pytorch"),
        ("b300_sxm", "int4_awq", DEFAULT, "pytorch"),
    ],
)
def test_the_runtime_follows(sku: str, precision: str, version: str, runtime: str) -> None:
    chosen, reason = support.choose_runtime(find(sku), precision, version)
    assert chosen == runtime
    assert reason


def test_no_runtime_is_a_refusal() -> None:
    with pytest.raises(SpecError, match="Turing"):
        support.choose_runtime(find("t4"), "fp16", DEFAULT)


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "bf16")])
@pytest.mark.parametrize("sku", ["cpu", "h100_sxm"])
def test_auto_precision_loses_nothing(dtype: str, precision: str, sku: str) -> None:
    chosen, reason = support.choose_precision(find(sku), dtype, available=("bf16", "fp16", "int8_wo", "fp8"))
    assert chosen == precision
    assert reason


def test_auto_precision_needs_a_dtype_and_a_scheme() -> None:
    with pytest.raises(SpecError, match="float8_e4m3fn"):
        support.choose_precision(find("cpu"), "float8_e4m3fn", available=("bf16",))
    with pytest.raises(SpecError):
        support.choose_precision(find("cpu"), "float16", available=("bf16",))


def test_every_cell_has_its_row_with_source_and_date() -> None:
    table = support.table()
    for runtime in support.RUNTIMES:
        for name in ALL:
            assert table[runtime, "weights", name].source
        for name in precisions.KV_DTYPES:
            assert table[runtime, "kv", name].date
    assert all(row.why_not for row in table.values() if not row.anywhere)


def test_kv_names_of_upstream() -> None:
    assert precisions.kv_quant_algo("auto") is None
    assert precisions.kv_quant_algo("int8") == "INT8"
    assert precisions.find("int8_wo").quant_algo == "W8A16"
    assert precisions.find("bf16").quant_algo is None
    assert set(precisions.KV_BITS) == set(precisions.KV_DTYPES)


def test_the_newest_row_serves_pytorch_only() -> None:
    release = find_release("1.3.0rc24")
    assert support.is_possible("pytorch", "bf16", "auto", find("h100_sxm"), release.trtllm)
    assert not support.is_possible("tensorrt", "bf16", "auto", find("h100_sxm"), release.trtllm)
