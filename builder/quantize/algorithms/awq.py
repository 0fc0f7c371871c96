"""AWQ (Lin et al., 2024, https://arxiv.org/abs/2306.00978): features that matter get a finer step of INT4.

Columns of the weight are multiplied by a scale before they are rounded, and the input is divided by it. What the
rounding costs, the mean square of `X dWᵀ`, is `tr(dW G dWᵀ)` with the Gram matrix `G = XᵀX`: the search never sees a
token, so that its time does not grow with their number.
"""

from __future__ import annotations

from builder.quantize.algorithms.clipping import clipped_scales, gram_blocks
from builder.quantize.algorithms.encoding import check_features, encode, scalar, weight_amax
from builder.quantize.algorithms.inputs import folded, in_half, observed, pre_quant_part
from builder.quantize.algorithms.scale_search import best_factor
from builder.quantize.formats import Role
from builder.quantize.numerics import fp8, integers
from builder.quantize.numerics.scales import step
from builder.quantize.problem import GroupTask, InputStatistics, Knobs, LinearTask, Solution, Tensor
from builder.quantize.raw import RawTensor
from builder.quantize.torch_bits import import_torch

STATISTICS: frozenset[str] = frozenset({"amax", "gram"})


def solve(group: GroupTask, statistics: InputStatistics | None, knobs: Knobs) -> Solution:
    """One scale for the input of all linears of the group; then clipping for each group of weights.

    An input of which calibration saw nothing, such as that of an expert which no token reached, is rounded to nearest
    with no scale and no clipping, as in NVIDIA ModelOpt; a single feature that it never saw keeps the scale 1.
    """
    torch = import_torch("AWQ")
    found = observed(group, statistics)
    for task in group.linears:
        check_features(task)
        weight_amax(task)  # refuses what is not finite before the search
    norm = None if group.norm is None else group.norm()

    def store(factor: Tensor) -> Tensor:
        return in_half(factor, knobs.dtype) if norm is None else folded(factor, norm, knobs.dtype)

    factor, figures = torch.ones_like(found.amax), {}
    if seen := bool(found.amax.any()):
        weights, size = [task.weight() for task in group.linears], group.linears[0].format.column_multiple
        choice = best_factor(weights, found, size, store)
        factor, figures = choice.factor, {"alpha": choice.alpha, "relative_error": choice.relative_error}
    shared: dict[Role, RawTensor] = {"pre_quant_scale": pre_quant_part(factor, knobs.dtype)} if norm is None else {}
    gram = found.gram if seen and knobs.awq_clip else None
    parts, amax = {}, {}
    for task in group.linears:
        made, amax[task.module] = _round(task, factor, gram)
        parts[task.module] = {**made, **shared}
    if "weight_scale_2" in group.linears[0].format.parts:
        input_amax = (found.amax * factor).amax()
        for module, second in _fp8_parts(group, amax, input_amax).items():
            parts[module] |= second
    return Solution(parts=parts, norm=None if norm is None else norm * factor, figures=dict.fromkeys(parts, figures))


def _round(task: LinearTask, factor: Tensor, gram: Tensor | None) -> tuple[dict[Role, RawTensor], Tensor]:
    """(codes and scales of the weight divided by `factor`, the largest magnitude that they stand for)."""
    import torch

    size = task.format.column_multiple
    blocks = None if gram is None else gram_blocks(gram, factor, size)
    largest: dict[int, Tensor] = {}

    def quantize(rows: slice, block: Tensor) -> dict[Role, Tensor]:
        weight = block.to(factor.device).div_(factor)
        scale = integers.group_scales(weight, size) if blocks is None else clipped_scales(weight, blocks)
        codes = integers.quantize_groups(weight, scale)
        largest[rows.start] = (codes.abs().view(*scale.shape, size).amax(dim=2) * scale).amax()
        return {"weight": integers.pack_rows(codes), "weight_scale": scale}

    parts = encode(task, quantize)
    return parts, torch.stack(list(largest.values())).amax()


def _fp8_parts(group: GroupTask, amax: dict[str, Tensor], input_amax: Tensor) -> dict[str, dict[Role, RawTensor]]:
    """Of kernels that compute in FP8: the steps of the rounded weight and of the input, after its scale."""
    import torch

    if group.share_scales:
        amax = dict.fromkeys(amax, torch.stack(list(amax.values())).amax())
    input_scale = scalar(step(input_amax, fp8.LARGEST))
    return {
        module: {"weight_scale_2": scalar(step(largest, fp8.LARGEST)), "input_scale": input_scale}
        for module, largest in amax.items()
    }
