"""The pieces of a decoder: norm, linear, rotary attention with a cache, gated MLP.

Attention is written in the form (stateful key-value cache, scaled dot product) that OpenVINO's continuous batching
turns into paged attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from builder.compile.openvino_ir.graph import Graph, Node
from builder.compile.openvino_ir.reader import Tensors
from builder.compile.openvino_ir.weights import expand, load_linear
from builder.model_config import ModelConfig
from trtllm_kit.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all layers of one forward pass share. Shapes: B sequences, S new tokens, D head size."""

    graph: Graph
    tensors: Tensors
    config: ModelConfig
    cos: Node  # [B, 1, S, D]
    sin: Node  # [B, 1, S, D]
    mask: Node  # [B, 1, S, tokens so far]; used only where the model runs without paged attention
    beam_idx: Node  # [B], which sequence's cache each row continues
    batch: Node  # [1], B


def vector(graph: Graph, tensors: Tensors, name: str, size: int, rank: int) -> Node:
    """A float32 constant [1, ..., size]; SpecError when the stored one has another size."""
    stored = tensors[name]
    if stored.shape != (size,):
        raise SpecError(
            f"the tensor '{name}' has the shape {stored.shape}",
            expected=f"({size},)",
            fix="check that config.json belongs to these weights",
        )
    return graph.array(stored.float32().reshape((1,) * (rank - 1) + (size,)))


def norm(graph: Graph, tensors: Tensors, name: str, x: Node, size: int, eps: float, rank: int = 3) -> Node:
    """RMS norm over the last axis, in the form that the CPU plugin fuses."""
    import numpy as np

    mean = graph("reduce_mean", graph("power", x, graph.scalar(2.0)), graph.ints(-1, dtype="int32"), keep_dims=True)
    shifted = graph("add", mean, graph.array(np.full((1,) * rank, eps, np.float32)))
    scaled = graph("multiply", graph("divide", graph.scalar(1.0), graph("sqrt", shifted)), x)
    return graph("multiply", scaled, vector(graph, tensors, name, size, rank))


def linear(graph: Graph, tensors: Tensors, name: str, x: Node, rows: int, columns: int, *, bias: bool) -> Node:
    """x [B, S, columns] → [B, S, rows]. `bias` says what the family has, so a missing one is noticed."""
    stored = load_linear(tensors, name, rows, columns)
    if stored.pre_quant_scale is not None:
        x = graph("multiply", x, vector(graph, tensors, f"{name}.pre_quant_scale", columns, 3))
    y = graph("matmul", x, expand(graph, stored), False, True)
    if bias:
        y = graph("add", y, vector(graph, tensors, f"{name}.bias", rows, 3))
    elif stored.bias is not None:
        raise SpecError(
            f"the checkpoint has a bias for '{name}' that its family does not use",
            expected="no such tensor",
            fix="check that config.json belongs to these weights",
        )
    return y


def attention(step: Step, name: str, layer: int, x: Node) -> Node:
    """Self-attention over the cache and the new tokens: [B, S, hidden] → [B, S, hidden]."""
    graph, config = step.graph, step.config
    heads, kv_heads, size, hidden = (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_size,
        config.hidden_size,
    )

    def project(part: str, count: int) -> Node:
        bias = config.attention_bias
        y = linear(graph, step.tensors, f"{name}.{part}_proj", x, count * size, hidden, bias=bias)
        y = graph("reshape", y, graph.ints(0, 0, count, size), special_zero=True)
        if config.qk_norm and part != "v":
            y = norm(graph, step.tensors, f"{name}.{part}_norm.weight", y, size, config.rms_norm_eps, rank=4)
        return graph("transpose", y, graph.ints(0, 2, 1, 3))

    query = _rotate(step, project("q", heads))
    key = _cached(step, f"past_key_values.{layer}.keypresent.{layer}.key", _rotate(step, project("k", kv_heads)))
    value = _cached(step, f"past_key_values.{layer}.valuepresent.{layer}.value", project("v", kv_heads))
    key, value = _repeat(step, key), _repeat(step, value)
    y = graph("scaled_dot_product_attention", query, key, value, step.mask, causal=False)
    y = graph("transpose", y, graph.ints(0, 2, 1, 3))
    y = graph("reshape", y, graph.ints(0, 0, heads * size), special_zero=True)
    return linear(graph, step.tensors, f"{name}.o_proj", y, hidden, heads * size, bias=config.attention_output_bias)


def mlp(step: Step, name: str, x: Node) -> Node:
    """down(silu(gate(x)) * up(x)): [B, S, hidden] → [B, S, hidden]."""
    graph, hidden, inner = step.graph, step.config.hidden_size, step.config.intermediate_size

    def project(part: str, y: Node, rows: int, columns: int) -> Node:
        return linear(graph, step.tensors, f"{name}.{part}_proj", y, rows, columns, bias=step.config.mlp_bias)

    gate = graph("swish", project("gate", x, inner, hidden))
    return project("down", graph("multiply", gate, project("up", x, inner, hidden)), hidden, inner)


def _rotate(step: Step, x: Node) -> Node:
    """Rotary position embedding of [B, heads, S, D] by halves."""
    import numpy as np

    graph, half = step.graph, step.config.head_size // 2
    low = graph("slice", x, graph.ints(0), graph.ints(half), graph.ints(1), graph.ints(3))
    high = graph("slice", x, graph.ints(half), graph.ints(2 * half), graph.ints(1), graph.ints(3))
    minus = graph("multiply", high, graph.array(np.full((1, 1, 1, 1), -1, np.float32)))
    turned = graph("concat", [minus, low], -1)
    return graph("add", graph("multiply", x, step.cos), graph("multiply", turned, step.sin))


def _cached(step: Step, variable: str, new: Node) -> Node:
    """The stored tokens of `variable` followed by the new ones."""
    graph, config = step.graph, step.config
    sizes = graph("concat", [step.batch, graph.ints(config.num_key_value_heads, 0, config.head_size)], 0)
    empty = graph("broadcast", graph.scalar(0.0), sizes)
    past = graph.state(variable, empty, (-1, config.num_key_value_heads, -1, config.head_size))
    past = graph("gather", past, step.beam_idx, graph.scalar(0, "int64"))
    return graph.store(variable, graph("concat", [past, new], 2))


def _repeat(step: Step, x: Node) -> Node:
    """[B, kv_heads, T, D] → [B, heads, T, D], each key-value head serving its group of query heads."""
    graph, config = step.graph, step.config
    group = config.num_attention_heads // config.num_key_value_heads
    if group == 1:
        return x
    sizes = [step.batch, graph.ints(config.num_key_value_heads, group, 1, config.head_size)]
    wide = graph("unsqueeze", x, graph.ints(2))
    wide = graph("broadcast", wide, graph("concat", sizes, 0), broadcast_spec="BIDIRECTIONAL")
    return graph("reshape", wide, graph.ints(0, config.num_attention_heads, -1, config.head_size), special_zero=True)
