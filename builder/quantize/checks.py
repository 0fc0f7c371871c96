"""What a recipe cannot do to a model, found in the headers before any work."""

from __future__ import annotations

from builder.checkpoint import Checkpoint
from builder.families import family_of
from builder.quantize.formats import PLAIN, Format
from builder.quantize.layouts import Ranks, check_layout
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import MIXED, Layout, Scheme, find_scheme, layout_facts
from trtllm_kit.errors import SpecError


def check(checkpoint: Checkpoint, recipe: Recipe, layout: Layout, ranks: Ranks) -> None:
    """SpecError that names the layer and what would fit."""
    for name in recipe.layers.values() if recipe.precision == MIXED else (recipe.precision,):
        layout_facts(find_scheme(name), layout)
    family, config = family_of(checkpoint.config.architecture), checkpoint.config
    shapes = family.shapes(config)
    for layer in range(config.num_hidden_layers):
        for group in family.groups(config, layer):
            _check_same(recipe, group.modules)
            for module in group.modules:
                rows, columns = shapes[f"{module}.weight"]
                _check_features(module, rows, columns, recipe.scheme_of(module), recipe.format_of(module, layout))
    check_layout(checkpoint, recipe, layout, ranks)


def _check_same(recipe: Recipe, modules: tuple[str, ...]) -> None:
    """Linears that read one input share its scales, and every runtime fuses them into one."""
    schemes = [recipe.scheme_of(module) for module in modules]
    odd = next((number for number, scheme in enumerate(schemes) if scheme != schemes[0]), None)
    if odd is not None:
        one, other = (_name(schemes[number]) for number in (0, odd))
        raise SpecError(
            f"{modules[0]} is to be {one} and {modules[odd]} {other}, and both read the same input",
            expected="one precision for linears that read one input: runtimes fuse them",
            fix=f"give {', '.join(modules)} the same precision, or exclude them all",
        )


def _check_features(module: str, rows: int, columns: int, scheme: Scheme | None, found: Format) -> None:
    for size, multiple, side in ((columns, found.column_multiple, "in"), (rows, found.row_multiple, "out")):
        if found != PLAIN and size % multiple:
            fits = [group for group in scheme.group_sizes if size % group == 0] if scheme else []
            raise SpecError(
                f"{module} has {size} {side}-features, which {_name(scheme)} cannot divide by {multiple}",
                expected=f"a multiple of {multiple}",
                fix=f"set quantization.group_size to {fits[0]}"
                if fits
                else f"exclude it (quantization.exclude: ['*.{module.rpartition('.')[2]}']), or choose fp8 or int8_wo, "
                "which have no groups",
            )


def _name(scheme: Scheme | None) -> str:
    return "half precision" if scheme is None else scheme.name
