"""Our numbers against NVIDIA ModelOpt's on the same float32 weight and input: `tests/golden/numerics.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builder.quantize.algorithms import ALGORITHMS
from builder.quantize.formats import FORMATS
from builder.quantize.numerics import activations, dequantize, integers
from builder.quantize.problem import GroupTask, InputStatistics, Knobs, LinearTask
from builder.quantize.raw import RawTensor
from builder.quantize.torch_bits import from_torch

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "numerics.safetensors")
WEIGHT, INPUT = GOLDEN["weight"], GOLDEN["input"]
DTYPES = {"I8": torch.int8, "U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn, "F32": torch.float32}
DTYPES |= {"BF16": torch.bfloat16}
STATISTICS = InputStatistics(
    tokens=len(INPUT), amax=INPUT.abs().amax(dim=0), mean_abs=INPUT.abs().mean(dim=0), gram=INPUT.T @ INPUT
)


def solve(
    form: str, algorithm: str, *, dtype: str = "bfloat16", **knobs: Any
) -> tuple[LinearTask, dict[Any, torch.Tensor]]:
    stored = FORMATS[form].of_group(128) if form.endswith("group") else FORMATS[form]
    task = LinearTask(
        module="m",
        rows=WEIGHT.shape[0],
        columns=WEIGHT.shape[1],
        format=stored,
        raw=lambda: from_torch(torch, WEIGHT, "F32"),
        weight=lambda: WEIGHT,
    )
    group = GroupTask(linears=(task,), share_scales=False)
    made = ALGORITHMS[algorithm].solve(group, STATISTICS, Knobs(dtype=dtype, **knobs)).parts["m"]
    return task, {role: tensor(raw) for role, raw in made.items()}


def tensor(raw: RawTensor) -> torch.Tensor:
    return torch.frombuffer(bytearray(raw.array.tobytes()), dtype=DTYPES[raw.dtype]).view(raw.array.shape)


def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.equal(ours.flatten().view(torch.uint8), theirs.flatten().view(torch.uint8))


@pytest.mark.parametrize(("form", "algorithm"), [("int8_row", "round_to_nearest"), ("fp8_tensor", "static")])
def test_codes_and_scales_of_the_weight_are_theirs_to_the_bit(form: str, algorithm: str) -> None:
    _, parts = solve(form, algorithm)
    for role in ("weight", "weight_scale"):
        assert parts[role].dtype == GOLDEN[f"{form}.{role}"].dtype
        assert same_bits(parts[role], GOLDEN[f"{form}.{role}"]), role


def test_nvfp4_is_theirs_to_the_bit_but_for_blocks_that_they_cut() -> None:
    """Where E4M3 has few bits left, theirs rounds to nearest and may cut the largest weight by half; ours does not."""
    task, parts = solve("nvfp4", "static")
    theirs = {role: GOLDEN[f"nvfp4.{role}"] for role in ("weight", "weight_scale", "weight_scale_2")}
    assert same_bits(parts["weight_scale_2"], theirs["weight_scale_2"])
    small = theirs["weight_scale"].float() <= 2.0**-6
    assert 0 < small.sum() < 40
    for role in ("weight", "weight_scale"):
        ours, expected = (made[role].view(torch.uint8).view(*small.shape, -1)[~small] for made in (parts, theirs))
        assert torch.equal(ours, expected), role
    half_a_step = parts["weight_scale"].float() * parts["weight_scale_2"]
    error = (dequantize(task.format, parts) - WEIGHT).abs().view(*small.shape, 16).amax(dim=2)
    assert (error[small] <= half_a_step[small]).all()


def test_int4_groups_are_theirs_to_the_bit() -> None:
    scale = integers.group_scales(WEIGHT, 128)
    assert same_bits(scale, GOLDEN["int4_group.weight_scale"])
    assert same_bits(integers.pack_rows(integers.quantize_groups(WEIGHT, scale)), GOLDEN["int4_group.weight"])


def test_inputs_are_rounded_as_theirs() -> None:
    few = INPUT[:8]
    for kind, largest in (("int8_tensor", 127), ("fp8_tensor", 448)):
        scale = GOLDEN["amax"] / largest
        ours, theirs = activations.fake_quantize(kind, few, scale), GOLDEN[f"{kind}.input"]
        # They multiply by the inverse of the scale, which moves a tie now and then; and INT8 kernels use -128 too.
        assert ((ours - theirs).abs() <= scale * 1.001).all()
        assert ((ours - theirs).abs() > 1e-5 * theirs.abs() + 1e-9).float().mean() < 0.01


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_smoothing_is_theirs_but_for_the_rounding_of_its_scale(alpha: float) -> None:
    task, parts = solve("int8_sq", "smoothquant", smoothquant_alpha=alpha)
    theirs = {role: GOLDEN[f"smoothquant_{alpha}.{role}"] for role in parts}
    assert same_bits(parts["pre_quant_scale"], theirs["pre_quant_scale"].bfloat16())
    assert torch.allclose(parts["weight_scale"], theirs["weight_scale"], rtol=2**-8)
    assert torch.allclose(parts["input_scale"], theirs["input_scale"][0], rtol=2**-8)
    errors = [(dequantize(task.format, made) - WEIGHT).norm() for made in (parts, theirs)]
    assert errors[0] <= 1.02 * errors[1]


def test_awq_costs_the_outputs_no_more_than_theirs() -> None:
    for method, clip in (("awq_lite", False), ("awq_full", True)):
        task, parts = solve("int4_group", "awq", dtype="float32", awq_clip=clip)
        ours = (INPUT @ (dequantize(task.format, parts) - WEIGHT).T).pow(2).mean()
        assert ours <= 1.02 * GOLDEN[f"{method}.loss"], method
