"""Rounding with no calibration: a weight in the checkpoint to its parts, block by block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from builder.quantize import quantize
from builder.quantize.algorithms import ALGORITHMS
from builder.quantize.numerics import fp8, integers
from builder.quantize.problem import GroupTask, Knobs
from builder.quantize.reader import open_checkpoint
from builder.quantize.recipe import Recipe
from trtllm_kit.console import Silent
from trtllm_kit.errors import SpecError

FORMS = ["int8_row", "int4_row", "fp8_row", "fp8_block"]
KNOBS = Knobs(dtype="bfloat16")


def solve(group: GroupTask) -> Any:
    return ALGORITHMS["round_to_nearest"].solve(group, None, KNOBS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_weight_of_many_blocks_is_as_if_done_at_once(
    form: str, dtype: torch.dtype, make_group: Callable[..., GroupTask], read: Callable[..., Any]
) -> None:
    weight = torch.randn(2050, 258, generator=torch.Generator().manual_seed(3)).to(dtype)
    parts = read(solve(make_group(form, weight)).parts["m0"])
    whole = {
        "int8_row": lambda rows: integers.quantize_rows(rows),
        "int4_row": lambda rows: integers.quantize_rows(rows, 7),
        "fp8_row": lambda rows: fp8.quantize_rows(rows),
        "fp8_block": lambda rows: fp8.quantize_blocks(rows),
    }[form]
    codes, scale = whole(weight.float())
    codes = integers.pack_rows(codes) if form == "int4_row" else codes
    assert torch.equal(parts["weight"].view(torch.uint8), codes.view(torch.uint8))
    assert torch.equal(parts["weight_scale"], scale)


@pytest.mark.parametrize("form", ["int8_row", "fp8_row", "fp8_block", "int4_row"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(
    form: str, bad: float, make_group: Callable[..., GroupTask]
) -> None:
    weight = torch.ones(300, 8, dtype=torch.bfloat16)
    weight[200, 2] = bad
    with pytest.raises(SpecError, match=r"^m1\.weight holds NaN or infinite"):
        solve(make_group(form, torch.ones(2, 8), weight))


def test_rows_that_cannot_share_a_byte_are_refused(make_group: Callable[..., GroupTask]) -> None:
    with pytest.raises(SpecError, match="m0 has 3 out features, which int4_row cannot divide by 2"):
        solve(make_group("int4_row", torch.ones(3, 8)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_whole_model_reads_back_within_half_a_step(
    dtype: str, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Only the linears of the decoder layers are quantized; all else is the checkpoint, at most cast to bfloat16."""
    model = make_model(torch_dtype=dtype, architectures=["Qwen2ForCausalLM"], model_type="qwen2", head_dim=None)
    out = tmp_path / "out"
    out.mkdir()
    quantize(model.fetch(), Recipe(precision="int8_wo"), layout="hf", tp_size=1, pp_size=1, out=out, talk=Silent())

    reader, written = open_checkpoint(out), load_file(out / "model.safetensors")
    half = torch.bfloat16 if dtype == "float32" else getattr(torch, dtype)
    assert set(reader.names()) == set(model.tensors)
    for name, tensor in model.tensors.items():
        values = torch.from_numpy(np.asarray(reader.tensor(name)))
        if name.endswith("proj.weight"):
            assert written[name].dtype == torch.int8
            assert ((values - tensor.float()).abs() <= written[f"{name}_scale"][:, None] * 0.50001).all(), name
        else:
            assert written[name].dtype == half
            assert torch.equal(values, tensor.to(half).float()), name
