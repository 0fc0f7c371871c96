"""What all parts of a decoder are made of: the step that they share, norm, linear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.compile.openvino_ir.graph import Graph, Node
from builder.compile.openvino_ir.reader import Tensors
from builder.compile.openvino_ir.weights import Weights, load_linear
from builder.families import Family, Module
from builder.families.base import Role
from builder.model_config import ModelConfig
from trtllm_kit.errors import SpecError

Wave = tuple[Node, Node]
"""cos and sin [B, 1, S, rotated features] of every new position."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all layers of one forward pass share. Shapes: B sequences, S new tokens, D head size."""

    graph: Graph
    tensors: Tensors
    weights: Weights
    config: ModelConfig
    family: Family
    modules: Sequence[Mapping[int | None, Sequence[Module]]]  # of each layer, by expert; None: what is no expert's
    waves: Sequence[Wave]  # of each layer
    masks: Sequence[Node]  # of each layer, [B, 1, S, tokens so far]
    beam_idx: Node  # [B], which sequence's cache each row continues
    batch: Node  # [1], B

    def outputs(self, layer: int, x: Node, *roles: Role, expert: int | None = None) -> list[Node]:
        """What the linears of these roles make of `x` [B, S, features]; those that are stored fused run once."""
        found: dict[Role, Node] = {}
        for module in self.modules[layer][expert]:
            if any(part.role in roles for part in module.linear.slices):
                found |= self._slices(module, self.linear(module, x))
        return [found[role] for role in roles]

    def _slices(self, module: Module, y: Node) -> dict[Role, Node]:
        if len(module.linear.slices) == 1:
            return {module.linear.slices[0].role: y}
        graph, config = self.graph, self.config
        return {
            part.role: graph(
                "slice",
                y,
                graph.ints(part.start(config)),
                graph.ints(part.start(config) + part.rows(config)),
                graph.ints(1),
                graph.ints(2),
            )
            for part in module.linear.slices
        }

    def linear(self, module: Module, x: Node) -> Node:
        """One linear of the family's table on x [B, S, features]."""
        row, config = module.linear, self.config
        return linear(self, module.name, x, row.rows(config), row.columns(config), bias=row.bias(config))

    def norm(self, name: str, x: Node, *, rank: int = 3) -> Node:
        """The norm whose weight is `name`, over the last axis of x."""
        return norm(
            self.graph, self.tensors, name, x, self.config.rms_norm_eps, offset=self.family.norm_offset(name), rank=rank
        )


def vector(graph: Graph, tensors: Tensors, name: str, size: int, rank: int, *, offset: float = 0.0) -> Node:
    """A float32 constant [1, ..., size], `offset` added; SpecError when the stored one has another size."""
    import numpy as np

    stored = tensors[name]
    if stored.shape != (size,):
        raise SpecError(
            f"the tensor '{name}' has the shape {stored.shape}",
            expected=f"({size},)",
            fix="check that config.json belongs to these weights",
        )
    return graph.array((stored.float32() + np.float32(offset)).reshape((1,) * (rank - 1) + (size,)))


def norm(graph: Graph, tensors: Tensors, name: str, x: Node, eps: float, *, offset: float, rank: int) -> Node:
    """RMS norm over the last axis, in the form that the CPU plugin fuses."""
    import numpy as np

    size = x.get_output_partial_shape(0)[rank - 1].get_length()
    mean = graph("reduce_mean", graph("power", x, graph.scalar(2.0)), graph.ints(-1, dtype="int32"), keep_dims=True)
    shifted = graph("add", mean, graph.array(np.full((1,) * rank, eps, np.float32)))
    scaled = graph("multiply", graph("divide", graph.scalar(1.0), graph("sqrt", shifted)), x)
    return graph("multiply", scaled, vector(graph, tensors, name, size, rank, offset=offset))


def linear(step: Step, name: str, x: Node, rows: int, columns: int, *, bias: bool) -> Node:
    """x [B, S, columns] → [B, S, rows]. `bias` says what the family has, so a missing one is noticed."""
    graph, tensors = step.graph, step.tensors
    stored = load_linear(tensors, name, rows, columns)
    if stored.pre_quant_scale is not None:
        x = graph("multiply", x, vector(graph, tensors, f"{name}.pre_quant_scale", columns, 3))
    y = graph("matmul", x, step.weights.expand(graph, stored), False, True)
    if bias:
        y = graph("add", y, vector(graph, tensors, f"{name}.bias", rows, 3))
    elif stored.bias is not None:
        raise SpecError(
            f"the checkpoint has a bias for '{name}' that its family does not use",
            expected="no such tensor",
            fix="check that config.json belongs to these weights",
        )
    return y
