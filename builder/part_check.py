"""Whether what stands in place of a linear's weight is all of a format that the kit can read. Headers tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from builder.checkpoint import Prequantized, TensorEntry
from builder.families import Family
from builder.model_config import ModelConfig
from builder.quantize.formats import Role
from builder.quantize.reader.recognise import Found, recognise
from builder.quantize.schemes import SCHEMES
from trtllm_kit.errors import SpecError

FLOAT_DTYPES = ("BF16", "F16", "F32")
_KV_SCALES = (".k_proj.k_scale", ".v_proj.v_scale")
_PACKERS = ("awq", "compressed-tensors")
_PER_WORD = 8  # 4-bit codes in an int32


def quantized_parts(
    family: Family, config: ModelConfig, tensors: Mapping[str, TensorEntry], how: Prequantized
) -> dict[str, TensorEntry]:
    """Every tensor of the linears that are quantized, by name; linears that are as they were stay out.

    SpecError for one whose tensors are no format of ours or of the others that `how` may mean, and where none is
    quantized at all.
    """
    expected = _formats(how)
    stored = _by_module(tensors)
    shapes = family.shapes(config)
    parts: dict[str, TensorEntry] = {}
    for module in sorted(name.removesuffix(".weight") for name in family.linear_names(config)):
        found = stored.get(module, {})
        codes = {suffix: (entry.dtype, entry.shape) for suffix, entry in found.items()}
        if not codes or (set(codes) == {"weight"} and codes["weight"][0] in FLOAT_DTYPES):
            continue
        rows, columns = shapes[f"{module}.weight"]
        if not (_codes(rows, columns, codes) in expected or (how.method in _PACKERS and _packed(rows, columns, codes))):
            raise _no_format(module, rows, columns, codes, how)
        parts |= {f"{module}.{suffix}": entry for suffix, entry in found.items()}
    if not parts:
        raise _none(how)
    return parts


def kv_scales(tensors: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """The scales of keys and values, by name; they stand beside linears that may be quantized or not."""
    return {name: entry for name, entry in tensors.items() if name.endswith(_KV_SCALES)}


def _formats(how: Prequantized) -> set[str]:
    """Names of formats. Others than ModelOpt leave out the scale of the input where it is measured on the fly."""
    names = set(how.layers.values()) or {how.precision}
    formats = {SCHEMES[name].layouts["hf"].format for name in names}
    return formats if how.method == "modelopt" else formats | ({"int8_row"} if "int8_sq" in formats else set())


def _by_module(tensors: Mapping[str, TensorEntry]) -> dict[str, dict[str, TensorEntry]]:
    stored: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in tensors.items():
        module, _, suffix = name.rpartition(".")
        if suffix != "bias" and not name.endswith(_KV_SCALES):
            stored.setdefault(module, {})[suffix] = entry
    return stored


def _codes(rows: int, columns: int, found: Mapping[str, Found]) -> str | None:
    """The format of ours, under ModelOpt's names or those of others: scales as a column, none of the input."""
    renamed = {("weight_scale" if suffix == "weight_scale_inv" else suffix): tensor for suffix, tensor in found.items()}
    dtype, shape = renamed.get("weight_scale", ("", ()))
    if shape == (rows, 1):
        renamed["weight_scale"] = (dtype, (rows,))
    known = cast("Mapping[Role, Found]", renamed)
    scalar: Found = ("F32", ())
    options = (recognise(rows, columns, option) for option in (known, {"input_scale": scalar, **known}))
    return next((option.name for option in options if option is not None), None)


def _packed(rows: int, columns: int, found: Mapping[str, Found]) -> bool:
    """AutoAWQ's form, or compressed-tensors' for 4 bits: eight codes in an int32."""
    name, along = ("scales", 0) if "qweight" in found else ("weight_scale", 1)
    _, shape = found.get(name, ("", ()))
    if len(shape) != 2 or not shape[along] or columns % shape[along]:
        return False
    groups, words = shape[along], "I32"
    awq = {
        "qweight": (words, (columns, rows // _PER_WORD)),
        "qzeros": (words, (groups, rows // _PER_WORD)),
        "scales": ("F", (groups, rows)),
    }
    packed = {
        "weight_packed": (words, (rows, -(-columns // _PER_WORD))),
        "weight_scale": ("F", (rows, groups)),
        "weight_shape": ("I", (2,)),
    }
    kinds = {**dict.fromkeys(FLOAT_DTYPES, "F"), "I64": "I"}
    plain = {
        suffix: (kinds.get(dtype, "I" if suffix == "weight_shape" else dtype), shape)
        for suffix, (dtype, shape) in found.items()
    }
    return plain in (awq, packed)


def _no_format(module: str, rows: int, columns: int, found: Mapping[str, Found], how: Prequantized) -> SpecError:
    what = ", ".join(f"{suffix} {dtype} {list(shape)}" for suffix, (dtype, shape) in sorted(found.items()))
    return SpecError(
        f"{module} consists of {what}",
        expected=f"a linear of {rows} x {columns} in {how.precision}, as the checkpoint's {how.method} config says",
        fix="check that config.json belongs to these weights, or start from the original checkpoint",
    )


def _none(how: Prequantized) -> SpecError:
    return SpecError(
        f"the checkpoint says that it is quantized (by {how.method}), and none of its linears is",
        expected=f"linears in {how.precision}",
        fix="check that config.json belongs to these weights; remove quantization_config, if they never were quantized",
    )
