"""What an engine's ranks cannot hold, found before any work."""

from __future__ import annotations

from builder.families import Family
from builder.families.base import Module
from builder.model_config import ModelConfig
from builder.quantize.layouts.parallel import Ranks, piece_of
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import MIXED
from trtllm_kit.errors import SpecError


def check_engine(family: Family, config: ModelConfig, recipe: Recipe, ranks: Ranks) -> None:
    """SpecError for a split that does not divide the model, or that its quantized linears cannot take."""
    _check_sizes(config, ranks)
    _check_built_schemes(recipe)
    for layer in range(config.num_hidden_layers):
        fused: dict[str, list[Module]] = {}
        for module in family.modules(config, layer):
            if module.linear.quantized and not module.expert:
                fused.setdefault(module.linear.trtllm, []).append(module)
        for modules in fused.values():
            _check_linear(modules, config, recipe, ranks)


def _check_sizes(config: ModelConfig, ranks: Ranks) -> None:
    tp, pp, kv_heads = ranks.tp_size, ranks.pp_size, config.num_key_value_heads
    for count, size, what, flag in (
        (config.num_attention_heads, tp, "attention heads", "tp_size"),
        (config.hidden_size, tp, "hidden features", "tp_size"),
        (config.mlp_size, tp, "intermediate features", "tp_size"),
        (config.num_hidden_layers, pp, "layers", "pp_size"),
    ):
        if count % size:
            raise SpecError(
                f"{flag} {size} does not divide the model's {count} {what}",
                expected=f"a {flag} among {', '.join(map(str, _divisors(count)))}",
                fix=f"set target.{flag} to one of these",
            )
    if kv_heads % tp and tp % kv_heads:
        raise SpecError(
            f"tp_size {tp} and the model's {kv_heads} key-value heads do not divide each other",
            expected="whole key-value heads for each rank, or whole ranks for each head",
            fix="set target.tp_size to a divisor or a multiple of them",
        )


def _check_built_schemes(recipe: Recipe) -> None:
    """trtllm-build quantizes W8A16 and W4A16 itself: every linear, by the name of its tensor."""
    layouts = ((row.name, row.layouts["trtllm"]) for row in recipe.schemes())
    built = [name for name, facts in layouts if facts.format == "plain" and facts.quant_algo is not None]
    if built and (recipe.precision == MIXED or recipe.exclude):
        raise SpecError(
            f"{built[0]} engines quantize all linears alike, when trtllm-build runs",
            expected="no excluded layers and no mixed precision with it",
            fix="use fp8 or int4_awq for these layers, or choose the `pytorch` runtime",
        )


def _check_linear(modules: list[Module], config: ModelConfig, recipe: Recipe, ranks: Ranks) -> None:
    """Features that upstream would pad, and groups of features that a cut between ranks would part."""
    first = modules[0]
    facts, scheme = recipe.facts_of(first.name, "trtllm"), recipe.scheme_of(first.name)
    if facts is None or scheme is None:
        return
    columns, slices = first.linear.columns(config), [part for module in modules for part in module.linear.slices]
    pieces = [(part, piece_of(part, columns, config, ranks.tp_size, tp_rank=0)[0]) for part in slices]
    # Key-value heads that are duplicated count for each rank.
    rows = sum((piece.stop - piece.start) * (1 if part.split == "row" else ranks.tp_size) for part, piece in pieces)
    group = recipe.format_of(first.name, "trtllm").column_multiple * (ranks.tp_size if slices[0].split == "row" else 1)
    step = facts.feature_multiple * ranks.tp_size
    for size, side, multiple, why in (
        (rows, "out", step, f"{facts.feature_multiple} × tp_size"),
        (columns, "in", step, f"{facts.feature_multiple} × tp_size"),
        (columns, "in", group, "whole groups for each rank"),
    ):
        if size % multiple:
            raise SpecError(
                f"{first.linear.trtllm} has {size} {side} features, which {scheme.name} engines at tp_size "
                f"{ranks.tp_size} cannot take",
                expected=f"a multiple of {multiple} ({why})",
                fix="choose a smaller tp_size, the precision bf16, or the `pytorch` runtime",
            )


def _divisors(count: int) -> list[int]:
    return [number for number in range(1, min(count, 64) + 1) if count % number == 0]
