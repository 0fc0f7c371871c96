"""Groups of linears to solve, made of weights; and their solutions as torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from builder.quantize.formats import FORMATS
from builder.quantize.numerics import dequantize
from builder.quantize.problem import GroupTask, InputStatistics, LinearTask
from builder.quantize.raw import RawTensor
from builder.quantize.torch_bits import from_torch

_SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_TORCH = {"I8": torch.int8, "U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn, "F32": torch.float32}
_TORCH |= {"BF16": torch.bfloat16, "F16": torch.float16}

GROUP = 128


@pytest.fixture
def make_group() -> Callable[..., GroupTask]:
    """`make_group("int4_group", weight, ...)`: linears "m0", "m1", ... that read one input."""

    def make(form: str, *weights: torch.Tensor, share: bool = False, norm: torch.Tensor | None = None) -> GroupTask:
        stored = FORMATS[form].of_group(GROUP) if form.endswith("group") else FORMATS[form]
        linears = tuple(
            LinearTask(
                module=f"m{number}",
                rows=weight.shape[0],
                columns=weight.shape[1],
                format=stored,
                raw=lambda weight=weight: from_torch(torch, weight, _SAFETENSORS[weight.dtype]),
                weight=lambda weight=weight: weight.float(),
            )
            for number, weight in enumerate(weights)
        )
        return GroupTask(linears=linears, share_scales=share, norm=None if norm is None else lambda: norm)

    return make


@pytest.fixture
def read() -> Callable[[Mapping[Any, RawTensor]], dict[Any, torch.Tensor]]:
    """The parts of a solution as tensors."""

    def tensors(parts: Mapping[Any, RawTensor]) -> dict[Any, torch.Tensor]:
        return {
            role: torch.frombuffer(bytearray(raw.array.tobytes()), dtype=_TORCH[raw.dtype]).view(raw.array.shape)
            for role, raw in parts.items()
        }

    return tensors


@pytest.fixture
def effective(read: Callable[..., dict[Any, torch.Tensor]]) -> Callable[..., torch.Tensor]:
    """`effective(group, solution, 0)`: the weight that the parts of its first linear stand for."""

    def weight(group: GroupTask, solution: Any, number: int) -> torch.Tensor:
        task = group.linears[number]
        parts = read(solution.parts[task.module])
        assert set(parts) == set(task.format.parts) - ({"pre_quant_scale"} if group.norm is not None else set())
        for role, part in parts.items():
            assert part.shape == task.format.parts[role].shape(task.rows, task.columns)
        return dequantize(task.format, parts)

    return weight


@pytest.fixture
def observe() -> Callable[[torch.Tensor], InputStatistics]:
    """The statistics of an input [tokens, columns]."""
    return lambda inputs: InputStatistics(
        tokens=len(inputs),
        amax=inputs.abs().amax(dim=0) if len(inputs) else torch.zeros(inputs.shape[1]),
        mean_abs=inputs.abs().mean(dim=0) if len(inputs) else torch.zeros(inputs.shape[1]),
        gram=inputs.T @ inputs,
    )


@pytest.fixture
def outliers() -> torch.Tensor:
    """An input [512, 256] with features that correlate, four of them large."""
    generator = torch.Generator().manual_seed(12)
    sizes = torch.ones(256)
    sizes[[3, 77, 150, 240]] = torch.tensor([30.0, 12.0, 20.0, 8.0])
    shared = torch.randn(512, 16, generator=generator) @ torch.randn(16, 256, generator=generator)
    return (torch.randn(512, 256, generator=generator) + 0.3 * shared) * sizes
