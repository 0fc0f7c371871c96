"""Rotary self-attention with a cache, in the form (stateful key-value cache, scaled dot product) that OpenVINO's
continuous batching turns into paged attention."""

from __future__ import annotations

from builder.compile.openvino_ir.graph import Graph, Node
from builder.compile.openvino_ir.layers import Step, Wave


def attention(step: Step, layer: int, x: Node) -> Node:
    """Self-attention over the cache and the new tokens: [B, S, hidden] → [B, S, hidden]."""
    graph, config = step.graph, step.config
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_size
    query, key, value = step.outputs(layer, x, "query", "key", "value")
    query = _rotate(graph, step.waves[layer], _heads(step, layer, query, heads, "q_norm"))
    key = _rotate(graph, step.waves[layer], _heads(step, layer, key, kv_heads, "k_norm"))
    value = _heads(step, layer, value, kv_heads)
    key = _repeat(step, _cached(step, f"past_key_values.{layer}.keypresent.{layer}.key", key))
    value = _repeat(step, _cached(step, f"past_key_values.{layer}.valuepresent.{layer}.value", value))
    scale = [graph.scalar(config.query_pre_attn_scalar**-0.5)] if config.query_pre_attn_scalar else []
    y = graph("scaled_dot_product_attention", query, key, value, step.masks[layer], *scale, causal=False)
    y = graph("transpose", y, graph.ints(0, 2, 1, 3))
    y = graph("reshape", y, graph.ints(0, 0, heads * size), special_zero=True)
    return step.outputs(layer, y, "output")[0]


def _heads(step: Step, layer: int, x: Node, count: int, norm: str | None = None) -> Node:
    """[B, S, count × D] → [B, count, S, D], each head through the model's norm of heads if it has one."""
    graph = step.graph
    x = graph("reshape", x, graph.ints(0, 0, count, step.config.head_size), special_zero=True)
    if norm is not None and step.config.qk_norm:
        x = step.norm(f"{step.family.layers}.{layer}.self_attn.{norm}.weight", x, rank=4)
    return graph("transpose", x, graph.ints(0, 2, 1, 3))


def _rotate(graph: Graph, wave: Wave, x: Node) -> Node:
    """Rotary position embedding by halves of the features of [B, heads, S, D] that the wave covers, the first ones."""
    import numpy as np

    cos, sin = wave
    size = x.get_output_partial_shape(0)[3].get_length()
    turning = cos.get_output_partial_shape(0)[3].get_length()

    def features(start: int, stop: int) -> Node:
        return graph("slice", x, graph.ints(start), graph.ints(stop), graph.ints(1), graph.ints(3))

    low, high = features(0, turning // 2), features(turning // 2, turning)
    minus = graph("multiply", high, graph.array(np.full((1, 1, 1, 1), -1, np.float32)))
    turned = graph("multiply", graph("concat", [minus, low], -1), sin)
    if turning == size:
        return graph("add", graph("multiply", x, cos), turned)
    rotated = graph("add", graph("multiply", features(0, turning), cos), turned)
    return graph("concat", [rotated, features(turning, size)], -1)


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
