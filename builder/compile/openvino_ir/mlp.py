"""The gated MLP, and the mixture of experts that are gated MLPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from builder.compile.openvino_ir.graph import Graph, Node
from builder.compile.openvino_ir.layers import Step

ACTIVATIONS: Mapping[str, Callable[[Graph, Node], Node]] = {
    "silu": lambda graph, x: graph("swish", x),
    "gelu_pytorch_tanh": lambda graph, x: graph("gelu", x, approximation_mode="TANH"),
}


def mlp(step: Step, layer: int, x: Node) -> Node:
    """What follows attention in a decoder layer: [B, S, hidden] → [B, S, hidden]."""
    return _experts(step, layer, x) if step.config.num_experts else _gated(step, layer, x)


def _gated(step: Step, layer: int, x: Node, expert: int | None = None) -> Node:
    """down(activation(gate(x)) * up(x))."""
    gate, up = step.outputs(layer, x, "gate", "up", expert=expert)
    active = ACTIVATIONS[step.config.hidden_act](step.graph, gate)
    return step.outputs(layer, step.graph("multiply", active, up), "down", expert=expert)[0]


def _experts(step: Step, layer: int, x: Node) -> Node:
    """The sum of all experts' results, weighted by the router; the weight of experts that it did not choose is 0.

    Every expert runs on every token: a graph of fixed shape cannot leave any out.
    """
    graph, count = step.graph, step.config.num_experts
    shares = graph("split", _routing(step, layer, x), graph.scalar(2, "int64"), count)
    total: Node = None
    for expert in range(count):
        part = graph("multiply", _gated(step, layer, x, expert), shares.output(expert))
        total = part if total is None else graph("add", total, part)
    return total


def _routing(step: Step, layer: int, x: Node) -> Node:
    """The weight of each expert for each token, [B, S, experts]: softmax over all, then the largest few kept."""
    graph, config = step.graph, step.config
    chances = graph("softmax", step.outputs(layer, x, "router")[0], -1)
    best = graph("topk", chances, graph.scalar(config.experts_per_token, "int64"), 2, "max", "value")
    weights, chosen = best.output(0), best.output(1)
    if config.norm_topk_prob:
        weights = graph("divide", weights, graph("reduce_sum", weights, graph.ints(-1), keep_dims=True))
    nothing = graph("multiply", chances, graph.scalar(0.0))
    return graph("scatter_elements_update", nothing, chosen, weights, graph.scalar(2, "int64"))
