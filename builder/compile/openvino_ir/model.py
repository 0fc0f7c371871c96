"""A whole decoder-only model as an OpenVINO model: inputs, embedding, layers, logits; and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder.compile.openvino_ir.attention import attention
from builder.compile.openvino_ir.graph import Graph, Node
from builder.compile.openvino_ir.layers import Step, Wave, linear
from builder.compile.openvino_ir.mlp import ACTIVATIONS, mlp
from builder.compile.openvino_ir.reader import Tensors, open_tensors
from builder.compile.openvino_ir.rope import Frequencies, frequencies, rotated
from builder.compile.openvino_ir.weights import Weights, stored_float
from builder.families import Family, Module, family_of
from builder.model_config import ModelConfig, Rope
from trtllm_kit.errors import SpecError

XML_NAME = "openvino_model.xml"
_END = 2**63 - 1
_MASKED = -65504.0  # the lowest float16: far below any score, and finite in every precision


def check_config(config: ModelConfig) -> None:
    """Refuse a shape that the graph could not reproduce exactly; SpecError. Reads no weights."""
    for rope in _ropes(config):
        frequencies(rope, config)
    if config.attn_logit_softcapping is not None:
        raise SpecError(
            f"the cpu runtime has no soft cap on attention scores (attn_logit_softcapping "
            f"{config.attn_logit_softcapping:g}): its paged attention cannot apply one",
            expected="attn_logit_softcapping null",
            fix="build this model for the tensorrt runtime",
        )
    if config.hidden_act not in ACTIVATIONS:
        raise SpecError(
            f"the cpu runtime has no activation '{config.hidden_act}'",
            expected=f"hidden_act one of {', '.join(ACTIVATIONS)}",
            fix="build this model for the tensorrt or pytorch runtime",
        )
    if any(rotated(rope, config) % 2 for rope in _ropes(config)):
        raise SpecError(f"config.json: head_dim {config.head_size} is odd", expected="an even head size")


def _ropes(config: ModelConfig) -> tuple[Rope, ...]:
    return (config.rope,) if config.local_rope is None else (config.rope, config.local_rope)


def write_ir(folder: Path, config: ModelConfig, out: Path) -> dict[str, str]:
    """Write `openvino_model.xml` and `.bin` into `out` from the unified Hugging Face checkpoint in `folder`.

    Returns what the plugin does with each kind of weight that was found. Same input, same bytes. Raises SpecError where
    the checkpoint does not fit its config.
    """
    import openvino

    check_config(config)
    graph, weights = Graph(out), Weights()
    model = build_model(graph, open_tensors(folder, config), weights, config)
    openvino.save_model(model, out / XML_NAME, compress_to_fp16=False)
    return weights.held


def build_model(graph: Graph, tensors: Tensors, weights: Weights, config: ModelConfig) -> Any:
    """An `openvino.Model` with inputs input_ids, attention_mask, position_ids [B, S] and beam_idx [B]; output logits.

    `graph` holds the memory that the model's constants point into and must outlive it.
    """
    ids, attended, positions = (
        graph.parameter(name, "i64", [-1, -1]) for name in ("input_ids", "attention_mask", "position_ids")
    )
    beam_idx = graph.parameter("beam_idx", "i32", [-1])
    family = family_of(config.architecture)
    step = Step(
        graph=graph,
        tensors=tensors,
        weights=weights,
        config=config,
        family=family,
        modules=[_by_expert(family, config, layer) for layer in range(config.num_hidden_layers)],
        waves=_waves(graph, config, positions),
        masks=_masks(graph, config, attended, positions),
        beam_idx=beam_idx,
        batch=graph("gather", graph("shape_of", ids), graph.ints(0), graph.ints(0)),
    )
    embedding = _embedding(step)
    x = graph("gather", embedding, graph("convert", ids, "i32"), graph.scalar(0, "int32"))
    if config.embedding_scale != 1:
        x = graph("multiply", x, graph.scalar(config.embedding_scale))
    for layer in range(config.num_hidden_layers):
        x = _decoder_layer(step, layer, x)
    x = step.norm(step.family.final_norm, x)
    result = graph.result("logits", _logits(step, x, embedding))
    return graph.model([result], [ids, attended, positions, beam_idx], config.model_type)


def _by_expert(family: Family, config: ModelConfig, layer: int) -> dict[int | None, list[Module]]:
    found: dict[int | None, list[Module]] = {}
    for module in family.modules(config, layer):
        found.setdefault(module.expert, []).append(module)
    return found


def _decoder_layer(step: Step, layer: int, x: Node) -> Node:
    """Attention, then MLP, each on the norm of what came before and added to it; Gemma norms what it adds as well."""
    graph, name = step.graph, f"{step.family.layers}.{layer}"

    def norm(part: str, y: Node) -> Node:
        return step.norm(f"{name}.{part}.weight", y)

    y = attention(step, layer, norm("input_layernorm", x))
    if not step.config.sandwich_norms:
        x = graph("add", x, y)
        return graph("add", x, mlp(step, layer, norm("post_attention_layernorm", x)))
    x = graph("add", x, norm("post_attention_layernorm", y))
    y = mlp(step, layer, norm("pre_feedforward_layernorm", x))
    return graph("add", x, norm("post_feedforward_layernorm", y))


def _embedding(step: Step) -> Node:
    table, sizes = step.tensors[step.family.embedding], (step.config.vocab_size, step.config.hidden_size)
    if table.shape != sizes or table.dtype not in ("BF16", "F16", "F32"):
        raise SpecError(
            f"the embedding is {table.dtype} {table.shape}",
            expected=f"a float tensor of {sizes}",
            fix="check that config.json belongs to these weights",
        )
    return stored_float(step.graph, table)


def _logits(step: Step, x: Node, embedding: Node) -> Node:
    graph, config, head = step.graph, step.config, step.family.lm_head.removesuffix(".weight")
    if config.tie_word_embeddings and step.tensors.find(f"{head}.weight") is None:
        logits = graph("matmul", x, embedding, False, True)
    else:
        logits = linear(step, head, x, config.vocab_size, config.hidden_size, bias=False)
    if config.final_logit_softcapping is None:
        return logits
    cap = graph.scalar(config.final_logit_softcapping)
    return graph("multiply", graph("tanh", graph("divide", logits, cap)), cap)


def _waves(graph: Graph, config: ModelConfig, positions: Node) -> list[Wave]:
    """The rotary waves of each layer; layers with the same frequencies share them."""
    made = [_rotary(graph, frequencies(rope, config), positions) for rope in _ropes(config)]
    return [made[_ropes(config).index(config.rope_of(layer))] for layer in range(config.num_hidden_layers)]


def _rotary(graph: Graph, found: Frequencies, positions: Node) -> Wave:
    import numpy as np

    inverse, factor = found
    column = graph("convert", graph("unsqueeze", positions, graph.ints(2)), "f32")
    half = graph("matmul", column, graph.array(inverse.reshape(1, 1, -1)), False, False)
    angle = graph("concat", [half, half], -1)

    def wave(kind: str) -> Node:
        y = graph("unsqueeze", graph(kind, angle), graph.ints(1))
        return y if factor == 1.0 else graph("multiply", y, graph.array(np.full((1, 1, 1, 1), factor, np.float32)))

    return wave("cos"), wave("sin")


def _masks(graph: Graph, config: ModelConfig, attended: Node, positions: Node) -> list[Node]:
    """Of each layer, 0 where a token may look and far below zero elsewhere: [B, 1, S, tokens so far]."""
    length = graph("squeeze", graph("gather", graph("shape_of", attended), graph.ints(1), graph.ints(0)), graph.ints(0))
    columns = graph("range", graph.scalar(0, "int64"), length, graph.scalar(1, "int64"), output_type="i64")
    columns = graph("unsqueeze", columns, graph.ints(0, 1, 2))
    rows = graph("unsqueeze", positions, graph.ints(1, 3))
    windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
    made = {window: _mask(graph, columns, rows, window) for window in dict.fromkeys(windows)}
    return [made[window] for window in windows]


def _mask(graph: Graph, columns: Node, rows: Node, window: int | None) -> Node:
    """The mask of a layer that looks back on `window` tokens. Paged attention has no masks: OpenVINO's rewriting finds
    the window in them, and only in the very form, superfluous steps included, that GPT-OSS has when it is exported."""
    visible = graph("less_equal", columns, rows)
    if window is None:
        return graph("select", visible, graph.scalar(0.0), graph.scalar(_MASKED))
    yes = graph.scalar(True, "bool")
    inside = graph("greater", columns, graph("add", rows, graph.scalar(-window, "int64")))
    inside = graph("bitwise_and", graph("bitwise_and", yes, inside), visible)
    inside = graph("bitwise_and", graph("bitwise_and", yes, inside), yes)
    whole = graph("broadcast", inside, graph("shape_of", inside))
    chosen = graph("select", whole, graph.scalar(0.0), graph.scalar(_MASKED))
    return graph("slice", chosen, graph.ints(0), graph.ints(_END), graph.ints(1), graph.ints(3))
