"""AWQ: what rounding to INT4 costs the outputs, and where its scales end up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from builder.quantize.algorithms import ALGORITHMS
from builder.quantize.numerics import dequantize, integers
from builder.quantize.problem import GroupTask, InputStatistics, Knobs
from trtllm_kit.errors import SpecError

Observe = Callable[[torch.Tensor], InputStatistics]


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(rows, 256, generator=generator) * 0.05 for rows in (64, 32, 300)]


def solve(group: GroupTask, statistics: InputStatistics, *, clip: bool = True, dtype: str = "bfloat16") -> Any:
    return ALGORITHMS["awq"].solve(group, statistics, Knobs(dtype=dtype, awq_clip=clip))


def loss(inputs: torch.Tensor, weight: torch.Tensor, made: torch.Tensor) -> float:
    return float((inputs @ (made - weight).T).pow(2).mean())


def rounded_to_nearest(weight: torch.Tensor) -> torch.Tensor:
    scale = integers.group_scales(weight, 128)
    return integers.quantize_groups(weight, scale) * scale.repeat_interleave(128, dim=1)


def test_each_step_of_the_search_costs_less(
    make_group: Callable[..., GroupTask], effective: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    group = make_group("int4_group", *weights())
    searched, clipped = (solve(group, observe(outliers), clip=clip) for clip in (False, True))
    for number, task in enumerate(group.linears):
        plain = loss(outliers, task.weight(), rounded_to_nearest(task.weight()))
        scaled = loss(outliers, task.weight(), effective(group, searched, number))
        assert scaled < 0.7 * plain
        assert loss(outliers, task.weight(), effective(group, clipped, number)) < 0.98 * scaled


def test_the_figures_say_what_the_search_found(
    make_group: Callable[..., GroupTask], effective: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    group = make_group("int4_group", weights()[0])
    solution = solve(group, observe(outliers), clip=False)
    weight = group.linears[0].weight()
    exact = (outliers @ weight.T).pow(2).mean()
    expected = (loss(outliers, weight, effective(group, solution, 0)) / exact) ** 0.5
    assert solution.figures["m0"]["relative_error"] == pytest.approx(float(expected), rel=0.02)
    assert 0 < solution.figures["m0"]["alpha"] <= 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_norm_takes_up_the_scale_of_its_input(
    dtype: str, make_group: Callable[..., GroupTask], read: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    """With the norm as it is stored, the weights stand for the same linear: its rounding is made up for."""
    norm = torch.linspace(0.2, 3, 256)
    norm[17] = 0
    inputs = outliers * norm
    group = make_group("int4_group", *weights(), norm=norm)
    solution = solve(group, observe(inputs), dtype=dtype)
    stored = solution.norm.to(getattr(torch, dtype)).float()
    assert torch.allclose(stored, solution.norm, rtol=1e-6)
    for task in group.linears:
        parts = read(solution.parts[task.module])
        made = dequantize(task.format, parts)
        exact = inputs @ task.weight().T
        error = ((outliers * stored) @ made.T - exact).norm() / exact.norm()
        plain = (inputs @ rounded_to_nearest(task.weight()).T - exact).norm() / exact.norm()
        assert error < 0.8 * plain


def test_w4a8_has_the_steps_of_fp8_beside(
    make_group: Callable[..., GroupTask], read: Any, effective: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    group = make_group("w4a8_group", *weights(), share=True)
    solution = solve(group, observe(outliers))
    every = [read(solution.parts[task.module]) for task in group.linears]
    scaled = [
        dequantize(task.format, parts, scaled_input=True) for task, parts in zip(group.linears, every, strict=True)
    ]
    for parts in every:
        assert parts["weight_scale_2"] == max(weight.abs().max() for weight in scaled) / 448
        assert parts["input_scale"] == (observe(outliers).amax * parts["pre_quant_scale"].float()).max() / 448
    apart = solve(make_group("w4a8_group", *weights()), observe(outliers))
    assert len({float(read(apart.parts[module])["weight_scale_2"]) for module in apart.parts}) == 3


def test_what_was_never_seen_is_rounded_to_nearest(
    make_group: Callable[..., GroupTask], read: Any, effective: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    group = make_group("int4_group", *weights())
    for inputs in (torch.zeros(0, 256), torch.zeros(8, 256)):
        solution = solve(group, observe(inputs))
        for number, task in enumerate(group.linears):
            assert torch.equal(effective(group, solution, number), rounded_to_nearest(task.weight()))
    outliers[:, [4, 200]] = 0
    scale = read(solve(group, observe(outliers)).parts["m0"])["pre_quant_scale"]
    assert scale[[4, 200]].tolist() == [1, 1]


def test_zeros_constants_and_extremes_survive(
    make_group: Callable[..., GroupTask], effective: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    weight = weights()[0]
    weight[0], weight[1], weight[2], weight[3] = 0, 0.25, 1e-40, 1e30
    weight[4, 128:] = 0
    made = effective(group := make_group("int4_group", weight), solve(group, observe(outliers)), 0)
    assert made.isfinite().all()
    assert not made[0].any() and not made[4, 128:].any()
    assert loss(outliers, weight[5:], made[5:]) < loss(outliers, weight[5:], rounded_to_nearest(weight[5:])) * 1.1


def test_the_bytes_do_not_depend_on_torchs_threads(
    make_group: Callable[..., GroupTask], observe: Observe, outliers: torch.Tensor
) -> None:
    group, statistics, before = make_group("w4a8_group", *weights()), observe(outliers), torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            parts = solve(group, statistics).parts
            made.append(
                {(module, role): raw.array.tobytes() for module in parts for role, raw in parts[module].items()}
            )
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1]


def test_features_that_form_no_whole_groups_are_refused(make_group: Callable[..., GroupTask], observe: Observe) -> None:
    with pytest.raises(SpecError, match=r"m0 has 192 in features, which int4_group cannot divide by 128") as refused:
        solve(make_group("int4_group", torch.ones(2, 192)), observe(torch.ones(4, 192)))
    assert "192 is one of 64" in str(refused.value)
