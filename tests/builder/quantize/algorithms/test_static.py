"""FP8 and NVFP4 with scales from calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from builder.quantize.algorithms import ALGORITHMS
from builder.quantize.numerics import nvfp4
from builder.quantize.problem import GroupTask, InputStatistics, Knobs
from trtllm_kit.errors import SpecError

Observe = Callable[[torch.Tensor], InputStatistics]
KNOBS = Knobs(dtype="bfloat16")
LARGEST = {"fp8_tensor": 448, "nvfp4": 2688}
TENSOR_SCALE = {"fp8_tensor": "weight_scale", "nvfp4": "weight_scale_2"}


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(rows, 256, generator=generator).bfloat16() * size for rows, size in ((64, 1), (32, 5), (32, 2))]


def solve(group: GroupTask, statistics: InputStatistics) -> Any:
    return ALGORITHMS["static"].solve(group, statistics, KNOBS)


@pytest.mark.parametrize("form", LARGEST)
@pytest.mark.parametrize("share", [False, True])
def test_scales_come_from_the_largest_values(
    form: str, share: bool, make_group: Callable[..., GroupTask], read: Any, observe: Observe, outliers: torch.Tensor
) -> None:
    group = make_group(form, *weights(), share=share)
    solution = solve(group, observe(outliers))
    every = [read(solution.parts[task.module]) for task in group.linears]
    amax = [task.weight().abs().max() for task in group.linears]
    expected = [max(amax)] * 3 if share else amax
    for parts, largest in zip(every, expected, strict=True):
        assert parts[TENSOR_SCALE[form]] == largest / LARGEST[form]
        assert parts["input_scale"] == outliers.abs().max() / LARGEST[form]


def test_fp8_codes_are_torchs_own_cast(make_group: Callable[..., GroupTask], read: Any, observe: Observe) -> None:
    group = make_group("fp8_tensor", *weights())
    for task in group.linears:
        parts = read(solve(group, observe(torch.ones(1, 256))).parts[task.module])
        expected = (task.weight() / parts["weight_scale"]).to(torch.float8_e4m3fn)
        assert torch.equal(parts["weight"].float(), expected.float())


def test_block_scales_follow_a_shared_tensor_scale(
    make_group: Callable[..., GroupTask], read: Any, effective: Any, observe: Observe
) -> None:
    group = make_group("nvfp4", *weights(), share=True)
    solution = solve(group, observe(torch.ones(1, 256)))
    for number, task in enumerate(group.linears):
        parts = read(solution.parts[task.module])
        codes, scale = nvfp4.quantize(task.weight(), parts["weight_scale_2"])
        assert torch.equal(parts["weight"], codes)
        assert torch.equal(parts["weight_scale"].float(), scale.float())
        error = (effective(group, solution, number) - task.weight()).norm() / task.weight().norm()
        assert error < 0.11


@pytest.mark.parametrize("form", LARGEST)
def test_an_input_that_was_never_seen_has_the_scale_one(
    form: str, make_group: Callable[..., GroupTask], read: Any, effective: Any, observe: Observe
) -> None:
    """Of an expert that no token reached; and a linear of zeros is zeros again."""
    group = make_group(form, weights()[0], torch.zeros(32, 256))
    for inputs in (torch.zeros(0, 256), torch.zeros(4, 256)):
        solution = solve(group, observe(inputs))
        assert read(solution.parts["m0"])["input_scale"] == 1
        assert not effective(group, solution, 1).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name(
    bad: float, make_group: Callable[..., GroupTask], observe: Observe
) -> None:
    weight = weights()[0]
    with pytest.raises(SpecError, match="the input of m0 was NaN or infinite"):
        solve(make_group("fp8_tensor", weight), observe(torch.full((2, 256), bad)))
    weight[63, 255] = bad
    with pytest.raises(SpecError, match=r"^m0\.weight holds NaN or infinite"):
        solve(make_group("nvfp4", weight), observe(torch.ones(1, 256)))


def test_features_that_share_no_block_are_refused(make_group: Callable[..., GroupTask], observe: Observe) -> None:
    with pytest.raises(SpecError, match="m0 has 24 in features, which nvfp4 cannot divide by 16"):
        solve(make_group("nvfp4", torch.ones(2, 24)), observe(torch.ones(1, 24)))
