"""A whole decoder-only model as an OpenVINO model: inputs, embedding, layers, logits; and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder.compile.openvino_ir import layers
from builder.compile.openvino_ir.graph import Graph, Node
from builder.compile.openvino_ir.reader import Tensors
from builder.compile.openvino_ir.rope import frequencies
from builder.compile.openvino_ir.weights import stored_float
from builder.model_config import ModelConfig
from trtllm_kit.errors import SpecError

XML_NAME = "openvino_model.xml"
_MASKED = -65504.0  # the lowest float16: far below any score, and finite in every precision


def check_config(config: ModelConfig) -> None:
    """Refuse a shape that the graph could not reproduce exactly; SpecError. Reads no weights."""
    frequencies(config)
    if config.hidden_act not in ("silu", "swish"):
        raise SpecError(
            f"the cpu runtime has no activation '{config.hidden_act}'",
            expected="hidden_act: silu",
            fix="build this model for the tensorrt or pytorch runtime",
        )
    if config.head_size % 2:
        raise SpecError(f"config.json: head_dim {config.head_size} is odd", expected="an even head size")


def write_ir(folder: Path, config: ModelConfig, out: Path) -> None:
    """Write `openvino_model.xml` and `.bin` into `out` from the unified Hugging Face checkpoint in `folder`.

    Same input, same bytes. Raises SpecError where the checkpoint does not fit its config.
    """
    import openvino

    check_config(config)
    graph = Graph()
    model = build_model(graph, Tensors(folder), config)
    openvino.save_model(model, out / XML_NAME, compress_to_fp16=False)


def build_model(graph: Graph, tensors: Tensors, config: ModelConfig) -> Any:
    """An `openvino.Model` with inputs input_ids, attention_mask, position_ids [B, S] and beam_idx [B]; output logits.

    `graph` holds the memory that the model's constants point into and must outlive it.
    """
    ids, attended, positions = (
        graph.parameter(name, "i64", [-1, -1]) for name in ("input_ids", "attention_mask", "position_ids")
    )
    beam_idx = graph.parameter("beam_idx", "i32", [-1])
    step = _step(graph, tensors, config, ids=ids, attended=attended, positions=positions, beam_idx=beam_idx)
    embedding = _embedding(graph, tensors, config)
    x = graph("gather", embedding, graph("convert", ids, "i32"), graph.scalar(0, "int32"))
    for layer in range(config.num_hidden_layers):
        x = _decoder_layer(step, layer, x)
    x = layers.norm(graph, tensors, "model.norm.weight", x, config.hidden_size, config.rms_norm_eps)
    result = graph.result("logits", _logits(graph, tensors, config, x, embedding))
    return graph.model([result], [ids, attended, positions, beam_idx], config.model_type)


def _step(
    graph: Graph, tensors: Tensors, config: ModelConfig, *, ids: Node, attended: Node, positions: Node, beam_idx: Node
) -> layers.Step:
    cos, sin = _rotary(graph, config, positions)
    return layers.Step(
        graph=graph,
        tensors=tensors,
        config=config,
        cos=cos,
        sin=sin,
        mask=_causal_mask(graph, attended, positions),
        beam_idx=beam_idx,
        batch=graph("gather", graph("shape_of", ids), graph.ints(0), graph.ints(0)),
    )


def _decoder_layer(step: layers.Step, layer: int, x: Node) -> Node:
    graph, config, name = step.graph, step.config, f"model.layers.{layer}"

    def norm(part: str, y: Node) -> Node:
        return layers.norm(graph, step.tensors, f"{name}.{part}.weight", y, config.hidden_size, config.rms_norm_eps)

    x = graph("add", x, layers.attention(step, f"{name}.self_attn", layer, norm("input_layernorm", x)))
    return graph("add", x, layers.mlp(step, f"{name}.mlp", norm("post_attention_layernorm", x)))


def _embedding(graph: Graph, tensors: Tensors, config: ModelConfig) -> Node:
    table, sizes = tensors["model.embed_tokens.weight"], (config.vocab_size, config.hidden_size)
    if table.shape != sizes or table.dtype not in ("BF16", "F16", "F32"):
        raise SpecError(
            f"the embedding is {table.dtype} {table.shape}",
            expected=f"a float tensor of {sizes}",
            fix="check that config.json belongs to these weights",
        )
    return stored_float(graph, table)


def _logits(graph: Graph, tensors: Tensors, config: ModelConfig, x: Node, embedding: Node) -> Node:
    if config.tie_word_embeddings and tensors.find("lm_head.weight") is None:
        return graph("matmul", x, embedding, False, True)
    return layers.linear(graph, tensors, "lm_head", x, config.vocab_size, config.hidden_size, bias=False)


def _rotary(graph: Graph, config: ModelConfig, positions: Node) -> tuple[Node, Node]:
    """cos and sin [B, 1, S, D] of every new position."""
    import numpy as np

    inverse, factor = frequencies(config)
    column = graph("convert", graph("unsqueeze", positions, graph.ints(2)), "f32")
    half = graph("matmul", column, graph.array(inverse.reshape(1, 1, -1)), False, False)
    angle = graph("concat", [half, half], -1)

    def wave(kind: str) -> Node:
        y = graph("unsqueeze", graph(kind, angle), graph.ints(1))
        return y if factor == 1.0 else graph("multiply", y, graph.array(np.full((1, 1, 1, 1), factor, np.float32)))

    return wave("cos"), wave("sin")


def _causal_mask(graph: Graph, attended: Node, positions: Node) -> Node:
    """0 where a token may look, far below zero elsewhere: [B, 1, S, tokens so far]."""
    length = graph("squeeze", graph("gather", graph("shape_of", attended), graph.ints(1), graph.ints(0)), graph.ints(0))
    columns = graph("range", graph.scalar(0, "int64"), length, graph.scalar(1, "int64"), output_type="i64")
    columns = graph("unsqueeze", columns, graph.ints(0, 1, 2))
    visible = graph("less_equal", columns, graph("unsqueeze", positions, graph.ints(1, 3)))
    return graph("select", visible, graph.scalar(0.0), graph.scalar(_MASKED))
