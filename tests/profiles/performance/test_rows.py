"""Rows of both kinds, through the command: the same rows come back with predictions, intervals, basis and errors."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiles.performance.rows import read

PUBLISHED = Path(__file__).parents[3] / "profiles" / "data" / "published_throughput.csv"
HEADER = "trtllm_version,gpu_short,model,precision,tp,pp,ep,attention_dp,isl,osl,output_tokens_per_s,basis,kind"
LATENCY = (
    "id,backend_version,model_path,system,precision,isl,osl,gemm_quant_mode,moe_quant_mode,batch_size,tp_size,pp_size,"
    "attention_dp_size,moe_tp_size,moe_ep_size,silicon_ttft_ms,silicon_tpot_ms"
)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(*lines: str) -> Path:
        path = tmp_path / "rows.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return make


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_throughput_rows_come_back_with_predictions(kit: Any, write: Write) -> None:
    path = write(
        HEADER,
        "0.17,H100,Llama-3.1-8B,FP8,1,1,1,1,1000,1000,16000,total,max_throughput",
        "1.1,H200,Llama-3.1-70B,FP8,2,1,1,1,1000,1000,,per_gpu,max_throughput",
        "0.8.0,H100,Llama-2-7B,FP8,1,1,1,1,128,128,9000,total,max_throughput_static_batch",
    )
    done = kit.ok("predict", str(path))
    first, second, third = rows_of(done.out)
    assert (first["model"], first["output_tokens_per_s"], first["given_basis"]) == ("Llama-3.1-8B", "16000", "total")
    assert float(first["low"]) < float(first["predicted"]) < float(first["high"])
    assert float(first["error_percent"]) == pytest.approx(100 * (float(first["predicted"]) / 16000 - 1), abs=0.01)
    assert "h100_sxm" in first["basis"]
    assert float(second["predicted"]) > 0
    assert second["error_percent"] == ""
    assert third["predicted"] == ""
    assert "static_batch" in third["basis"]
    assert "throughput h100_sxm dense fp8" in done.err


def test_latency_rows_come_back_with_both_figures(kit: Any, write: Write, tmp_path: Path) -> None:
    path = write(LATENCY, "a,1.0.0rc3,Qwen/Qwen3-32B,h100_sxm,fp8,1024,512,fp8,fp8,32,2,1,,2,1,218.0,16.0")
    out = tmp_path / "out.csv"
    summary = kit.ok("predict", str(path), "-o", str(out), "--output", "json").json["summary"]
    (row,) = rows_of(out.read_text())
    assert float(row["low_tpot_ms"]) < float(row["predicted_tpot_ms"]) < float(row["high_tpot_ms"])
    assert float(row["predicted_ttft_ms"]) > float(row["predicted_tpot_ms"])
    assert float(row["tpot_error_percent"]) == pytest.approx(100 * (float(row["predicted_tpot_ms"]) / 16 - 1), abs=0.1)
    assert {group["name"].split(" ")[0] for group in summary} == {"TPOT", "TTFT", "all"}


def test_published_rows_are_predicted_about_as_well_as_promised(kit: Any, tmp_path: Path) -> None:
    """Not held out, so only a coarse guard: constants that belong to other formulas would be far off."""
    groups = kit.ok("predict", str(PUBLISHED), "-o", str(tmp_path / "o.csv"), "--output", "json").json["summary"]
    found = {group["name"]: group for group in groups}
    assert found["all throughput"]["rows"] > 2400
    assert found["all throughput"]["median_percent"] < 4
    assert found["all throughput"]["held"] > 0.85


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("1.1,H10,Llama-3.1-8B,FP8,1,1,1,1,1000,1000,,total,max_throughput", "h100"),
        ("1.1,H100,Lama-3.1-8B,FP8,1,1,1,1,1000,1000,,total,max_throughput", "llama-3.1-8b"),
        ("1.1,H100,Llama-3.1-8B,FP9,1,1,1,1,1000,1000,,total,max_throughput", "fp8"),
        ("1.1,H100,Llama-3.1-8B,FP8,1,1,1,1,many,1000,,total,max_throughput", "whole number"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(kit: Any, write: Write, line: str, nearest: str) -> None:
    done = kit.run("predict", str(write(HEADER, line)))
    assert done.code == 3
    assert "line 2" in done.err
    assert nearest in done.err
    assert done.out == ""


def test_a_file_of_something_else_is_refused(kit: Any, write: Write) -> None:
    done = kit.run("predict", str(write("a,b", "1,2")))
    assert done.code == 3
    assert "isl" in done.err


def test_an_own_model_by_its_config(kit: Any, write: Write, tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 30}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = write(
        HEADER,
        "1.1,H100,Llama-3.1-8B,FP8,1,1,1,1,1000,1000,,total,max_throughput",
        "1.1,H100,our-own-8b,FP8,1,1,1,1,1000,1000,,total,max_throughput",
    )
    known, own = rows_of(kit.ok("predict", str(path), "--config", f"our-own-8b={tmp_path}").out)
    assert float(own["predicted"]) == pytest.approx(float(known["predicted"]) * 32 / 30, rel=0.1)
    assert "model unseen" in own["basis"]
    assert "model unseen" not in known["basis"]


def test_gpus_that_are_counted_twice_are_counted_once(write: Write) -> None:
    path = write(
        LATENCY,
        "a,,deepseek-ai/DeepSeek-R1,h200_sxm,fp8,1024,1024,fp8,fp8,4,64,1,1.0,8,8,1,1",
        "b,,deepseek-ai/DeepSeek-R1,h200_sxm,fp8,1024,1024,fp8,fp8,2,1,1,64.0,8,8,1,1",
        "c,1.0.0rc3,Qwen/Qwen3-235B-A22B-FP8,h100_sxm,fp8,128,128,fp8_block,fp8_block,16,4,1,,2,2,1,1",
    )
    tensor, data, plain = (row.question for row in read(path) if row.question)
    assert (tensor.setup.tp_size, tensor.setup.attention_dp, tensor.concurrency) == (8, False, 4)
    assert (data.setup.tp_size, data.setup.attention_dp, data.concurrency) == (8, True, 128)
    assert (plain.setup.tp_size, plain.setup.attention_dp) == (4, False)
