"""A checkpoint that is quantized already, passed on: its files as they are, or its parts in the files of ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

from builder.checkpoint import Checkpoint, Prequantized
from builder.families import family_of
from builder.prequantized import QUANT_CONFIG, check_as_it_is
from builder.quantize.algorithms.copy import convert
from builder.quantize.formats import Role
from builder.quantize.layouts import Ranks, check_layout, open_layout
from builder.quantize.layouts.description import PRODUCER
from builder.quantize.raw import SAFETENSORS_DTYPE, RawTensor, TensorSource
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import Layout
from trtllm_kit.console import Talk
from trtllm_kit.errors import SpecError
from trtllm_kit.files import disk_errors, pretty_json

_SCALARS: tuple[Role, ...] = ("weight_scale_2", "input_scale")


def pass_through(checkpoint: Checkpoint, *, layout: Layout, tp_size: int, pp_size: int, out: Path, talk: Talk) -> None:
    """Fill the empty folder `out` with a checkpoint that `fetch` found to be quantized; no number changes.

    In the hf layout its files are copied, with ModelOpt's config beside them where it stood in `config.json` alone,
    for TensorRT-LLM looks for the file. In the trtllm layout its parts are split among tp_size × pp_size ranks.
    Raises SpecError for a form that the layout cannot hold.
    """
    assert checkpoint.quantized is not None
    with disk_errors(out):
        if layout == "hf":
            _copy(checkpoint, checkpoint.quantized, out, talk)
        else:
            check_as_it_is(checkpoint.quantized, checkpoint.quantized.precision, "tensorrt")
            _split(checkpoint, checkpoint.quantized, Ranks(tp_size=tp_size, pp_size=pp_size), out, talk)


def recipe_of(checkpoint: Checkpoint, found: Prequantized) -> Recipe:
    """What was done to the checkpoint, as a recipe: its precision, and the linears that were left out."""
    family, config = family_of(checkpoint.config.architecture), checkpoint.config
    halves = SAFETENSORS_DTYPE.values()
    plain = sorted(
        name.removesuffix(".weight")
        for name in family.linear_names(config)
        if name in checkpoint.tensors and checkpoint.tensors[name].dtype in halves
    )
    return Recipe(
        precision=found.precision,
        layers=dict(found.layers),
        exclude=tuple(plain),
        group_size=found.group_size,
        kv_cache=found.kv_cache,
    )


def _copy(checkpoint: Checkpoint, found: Prequantized, out: Path, talk: Talk) -> None:
    for done, name in enumerate(checkpoint.files, start=1):
        # A copy: a link would change with the user's own file, and the store promises that it does not.
        shutil.copyfile(checkpoint.path / name, out / name)
        talk.progress(done, len(checkpoint.files), "checkpoint files")
    if found.method == "modelopt" and QUANT_CONFIG not in checkpoint.files:
        settings = dict(checkpoint.config.raw["quantization_config"])
        settings["exclude_modules"] = settings.pop("ignore", [])
        settings["kv_cache_quant_algo"] = None if found.kv_cache == "none" else found.kv_cache.upper()
        known = ("quant_algo", "kv_cache_quant_algo", "group_size", "exclude_modules", "quantized_layers")
        content = {"producer": PRODUCER, "quantization": {key: settings[key] for key in known if key in settings}}
        (out / QUANT_CONFIG).write_text(pretty_json(content), encoding="utf-8")


def _split(checkpoint: Checkpoint, found: Prequantized, ranks: Ranks, out: Path, talk: Talk) -> None:
    recipe, source = recipe_of(checkpoint, found), TensorSource(checkpoint.tensors)
    dtype = "bfloat16" if checkpoint.config.dtype == "float32" else checkpoint.config.dtype
    check_layout(checkpoint, recipe, "trtllm", ranks)
    _check_fused(checkpoint, source)
    writer = open_layout(checkpoint, recipe, "trtllm", dtype=dtype, ranks=ranks, out=out)
    try:
        for done, (name, entry) in enumerate(writer.entries.items(), start=1):
            raw = source.read(name)
            if entry.dtype == SAFETENSORS_DTYPE[dtype]:
                raw = convert(name, raw, dtype)
            writer.write(name, RawTensor(raw.dtype, raw.array.reshape(entry.shape)))
            talk.progress(done, len(writer.entries), "splitting the checkpoint among ranks")
        writer.flush()
    except BaseException:
        writer.abandon()
        raise
    writer.close()


def _check_fused(checkpoint: Checkpoint, source: TensorSource) -> None:
    """SpecError where linears that an engine fuses have different scales for the whole tensor."""
    family, config = family_of(checkpoint.config.architecture), checkpoint.config
    first: dict[tuple[int, str, int | None, Role], tuple[str, bytes]] = {}
    for layer in range(config.num_hidden_layers):
        for module in family.modules(config, layer):
            for role in _SCALARS:
                name = f"{module.name}.{role}"
                if name not in checkpoint.tensors:
                    continue
                value = source.read(name).array.tobytes()
                one, same = first.setdefault((layer, module.linear.trtllm, module.expert, role), (name, value))
                if value != same:
                    raise SpecError(
                        f"{one} and {name} differ, and an engine keeps one number for both",
                        expected="equal scales for linears that are fused, as ModelOpt exports them",
                        fix="set runtime to pytorch, or give the checkpoint that it was made from",
                    )
