"""SmoothQuant: outliers move from the input into the weight, and the product stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from builder.quantize.algorithms import ALGORITHMS
from builder.quantize.numerics import dequantize
from builder.quantize.numerics.activations import fake_quantize
from builder.quantize.problem import GroupTask, InputStatistics, Knobs
from trtllm_kit.errors import SpecError

Observe = Callable[[torch.Tensor], InputStatistics]


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(rows, 256, generator=generator) * 0.05 for rows in (64, 32)]


def solve(group: GroupTask, statistics: InputStatistics, alpha: float = 0.5) -> Any:
    knobs = Knobs(dtype="bfloat16", smoothquant_alpha=alpha)
    return ALGORITHMS["smoothquant"].solve(group, statistics, knobs)


def output_error(group: GroupTask, parts: Any, inputs: torch.Tensor) -> float:
    """Of the first linear as the INT8 kernel computes it."""
    task = group.linears[0]
    rounded = fake_quantize("int8_tensor", inputs * parts["pre_quant_scale"].float(), parts["input_scale"])
    exact = inputs @ task.weight().T
    made = rounded @ dequantize(task.format, parts, scaled_input=True).T
    return float((made - exact).norm() / exact.norm())


def test_outliers_cost_less_with_smoothing(
    make_group: Callable[..., GroupTask], read: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    group = make_group("int8_sq", *weights())
    smoothed, not_smoothed = (
        output_error(group, read(solve(group, observe(outliers), alpha).parts["m0"]), outliers) for alpha in (0.5, 0.0)
    )
    assert smoothed < 0.5 * not_smoothed
    assert smoothed < 0.025


def test_linears_of_one_input_share_its_scales(
    make_group: Callable[..., GroupTask], read: Any, effective: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    group = make_group("int8_sq", *weights())
    solution = solve(group, observe(outliers))
    first, second = (read(solution.parts[task.module]) for task in group.linears)
    assert torch.equal(first["pre_quant_scale"], second["pre_quant_scale"])
    assert torch.equal(first["input_scale"], second["input_scale"])
    assert first["input_scale"] == (observe(outliers).amax * first["pre_quant_scale"].float()).max() / 127
    for number, task in enumerate(group.linears):
        parts = read(solution.parts[task.module])
        half_a_step = parts["weight_scale"][:, None] * parts["pre_quant_scale"].float() * 0.5001
        assert ((effective(group, solution, number) - task.weight()).abs() <= half_a_step).all()


def test_features_that_were_never_seen_stay_as_they_are(
    make_group: Callable[..., GroupTask], read: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    outliers[:, [5, 9]] = 0
    weight = weights()[0]
    weight[:, 11] = 0
    parts = read(solve(make_group("int8_sq", weight), observe(outliers)).parts["m0"])
    assert parts["pre_quant_scale"][[5, 9]].tolist() == [1, 1]
    assert (parts["pre_quant_scale"].float() > 0).all()
    assert output_error(make_group("int8_sq", weight), parts, outliers) < 0.1


def test_a_linear_that_no_token_reached_is_refused(make_group: Callable[..., GroupTask], observe: Observe) -> None:
    with pytest.raises(SpecError, match="no calibration token reached m0"):
        solve(make_group("int8_sq", *weights()), observe(torch.zeros(0, 256)))


def test_a_weight_that_is_not_finite_is_refused_by_name(
    make_group: Callable[..., GroupTask], observe: Observe, outliers: torch.Tensor
) -> None:
    bad = weights()
    bad[1][3, 3] = torch.nan
    with pytest.raises(SpecError, match=r"^m1\.weight holds NaN or infinite"):
        solve(make_group("int8_sq", *bad), observe(outliers))
