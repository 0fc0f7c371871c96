"""What a recipe makes of a model: the name, dtype and shape of every tensor that a layout has to hold."""

from __future__ import annotations

from builder.families import Family, LinearGroup
from builder.model_config import ModelConfig
from builder.quantize.formats import PLAIN, Format
from builder.quantize.layouts.base import SCALAR, VECTOR, Entries, Entry
from builder.quantize.raw import SAFETENSORS_DTYPE
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Layout


def stored_formats(family: Family, config: ModelConfig, recipe: Recipe, layout: Layout) -> dict[str, Format]:
    """The format of every linear of the decoder layers, by module, as `layout` stores it."""
    return {
        module: stored_format(recipe, group, module, layout)
        for layer in range(config.num_hidden_layers)
        for group in family.groups(config, layer)
        for module in group.modules
    }


def stored_format(recipe: Recipe, group: LinearGroup, module: str, layout: Layout) -> Format:
    """A linear's format, less the `pre_quant_scale` where the norm before the linear takes it up."""
    found, facts = recipe.format_of(module, layout), recipe.facts_of(module, layout)
    folded = facts is not None and facts.fold and group.norm is not None
    return found.without("pre_quant_scale") if folded else found


def kv_scale_names(family: Family, config: ModelConfig, layer: int) -> tuple[str, str]:
    """The names of the scales of a layer's keys and values. As ModelOpt's, even where one linear makes both."""
    attention = _keys_linear(family, config, layer).rpartition(".")[0]
    return f"{attention}.k_proj.k_scale", f"{attention}.v_proj.v_scale"


def entries_of(family: Family, config: ModelConfig, recipe: Recipe, layout: Layout, dtype: str) -> Entries:
    """Every tensor of the quantized checkpoint; `dtype` is that of whatever is not quantized."""
    formats, half = stored_formats(family, config, recipe, layout), SAFETENSORS_DTYPE[dtype]
    entries: dict[str, Entry] = {}
    for name, shape in family.shapes(config).items():
        module = name.removesuffix(".weight")
        if module in formats:
            entries.update(part_entries(module, formats[module], shape, half))
        else:
            part = VECTOR if len(shape) == 1 else PLAIN.parts["weight"]
            entries[name] = Entry(dtype=half, shape=shape, part=part, weight=name)
    if recipe.kv_cache != "none":
        entries.update(kv_entries(family, config))
    return entries


def part_entries(module: str, found: Format, shape: tuple[int, ...], half: str) -> Entries:
    """The parts of one linear whose weight is of `shape`."""
    rows, columns = shape
    return {
        f"{module}.{role}": Entry(
            dtype=part.dtype or half,
            shape=part.shape(rows, columns),
            part=part,
            weight=f"{module}.weight",
            format=found,
        )
        for role, part in found.parts.items()
    }


def kv_entries(family: Family, config: ModelConfig) -> Entries:
    """The scales of all layers' keys and values."""
    return {
        name: Entry(dtype="F32", shape=(), part=SCALAR, weight=f"{_keys_linear(family, config, layer)}.weight")
        for layer in range(config.num_hidden_layers)
        for name in kv_scale_names(family, config, layer)
    }


def _keys_linear(family: Family, config: ModelConfig, layer: int) -> str:
    modules = family.modules(config, layer)
    return next(module.name for module in modules if any(part.role == "key" for part in module.linear.slices))
