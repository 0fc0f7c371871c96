"""What a checkpoint says of a quantization that others did: ModelOpt, DeepSeek and Qwen, llm-compressor, AutoAWQ.

Such a checkpoint is passed on as it is. Sources: _torch/model_config.py and models/quant_config_utils.py of
TensorRT-LLM, ModelOpt's `hf_quant_config.json`, the `quantization_config` of compressed-tensors and AutoAWQ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from builder.checkpoint import Prequantized
from builder.quantize.schemes import MIXED, SCHEMES
from trtllm_kit.errors import SpecError
from trtllm_kit.files import read_json

QUANT_CONFIG = "hf_quant_config.json"
"""Where ModelOpt says it, and the kit; loaders believe this file before they believe `config.json`."""

_ALGORITHMS = {row.layouts["hf"].quant_algo: row.name for row in SCHEMES.values() if row.layouts["hf"].quant_algo}
_ALIASES = {"fp8_pb_wo": "FP8_BLOCK_SCALES"}
_MIXED_ALGO = "MIXED_PRECISION"
_BLOCK = [128, 128]
_ENGINE = "its scales are not those that an engine's fused layers need, and quantizing it again would lose more"
_ENGINE_TAKES = ("fp8_pc_pt", "nvfp4")  # whose scales are for each row, or shared among what is fused


def find_quantization(folder: Path, raw: Mapping[str, Any]) -> Prequantized | None:
    """How the checkpoint in `folder` with the config `raw` is quantized; None where it is not.

    SpecError for a method that the kit does not know, or says something that it cannot be.
    """
    settings = raw.get("quantization_config")
    file = folder / QUANT_CONFIG
    if file.is_file():
        whole = read_json(file, "the quantization config")
        nested = whole.get("quantization") if isinstance(whole, Mapping) else None
        if not isinstance(nested, Mapping) or "quant_algo" not in nested:
            raise _unknown(f"no quant_algo in {QUANT_CONFIG}", "the file that ModelOpt wrote")
        return _modelopt(nested)
    if not settings:
        return None
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    read = METHODS.get(str(method))
    if read is None:
        raise _unknown(f"quant_method {method!r}", f"quant_method one of {', '.join(METHODS)}")
    return read(settings)


def check_as_it_is(found: Prequantized, precision: str, runtime: str) -> None:
    """SpecError where a build asks for another precision than the checkpoint's, or a runtime cannot load its form."""
    if precision != found.precision:
        raise SpecError(
            f"the checkpoint is quantized to {found.precision} already (by {found.method}), and {precision} would lose "
            "more on top",
            expected=f"precision auto or {found.precision}: the checkpoint as it is",
            fix="leave precision out, or give the checkpoint that it was made from",
        )
    why = found.unserved.get(runtime)
    if why is not None:
        others = [name for name in ("pytorch", "cpu") if name not in found.unserved]
        raise SpecError(
            f"the {runtime} runtime cannot take a checkpoint that {found.method} quantized to {found.precision}: {why}",
            expected=f"the runtime {' or '.join(others)}, or a checkpoint that is not quantized",
            fix=f"set runtime to {others[0]}, or give the checkpoint that it was made from",
        )


def _modelopt(settings: Mapping[str, Any]) -> Prequantized | None:
    algorithm = _ALIASES.get(str(settings.get("quant_algo")), settings.get("quant_algo"))
    if algorithm is None:
        return None
    mixed = algorithm == _MIXED_ALGO
    layers = settings.get("quantized_layers") or {}
    names = {module: _precision(row.get("quant_algo")) for module, row in layers.items()} if mixed else {}
    precision = MIXED if mixed else _precision(algorithm)
    unserved = {} if precision in _ENGINE_TAKES else {"tensorrt": _ENGINE}
    reason = None if mixed else SCHEMES[precision].layouts["hf"].unserved
    return Prequantized(
        method="modelopt",
        precision=precision,
        layers=names,
        group_size=settings.get("group_size"),
        kv_cache=_kv_cache(settings.get("kv_cache_quant_algo") or settings.get("kv_cache_scheme")),
        unserved={**unserved, **({"pytorch": reason} if reason else {})},
    )


def _precision(algorithm: Any) -> str:
    if algorithm not in _ALGORITHMS:
        raise _unknown(f"quant_algo {algorithm!r}", f"quant_algo one of {', '.join(map(str, _ALGORITHMS))}")
    return _ALGORITHMS[algorithm]


def _kv_cache(found: Any) -> str:
    """ModelOpt names it, compressed-tensors describes it."""
    if isinstance(found, Mapping):
        found = {("float", 8): "fp8", ("int", 8): "int8", ("float", 4): "nvfp4"}.get(
            (str(found.get("type")), int(found.get("num_bits", 0)))
        )
    return str(found).lower() if found else "none"


def _fp8(settings: Mapping[str, Any]) -> Prequantized:
    if settings.get("weight_block_size") == _BLOCK:
        return Prequantized(method="fp8", precision="fp8_block", unserved={"tensorrt": _ENGINE})
    why = "TensorRT-LLM reads quant_method fp8 with blocks of 128 x 128 only"
    return Prequantized(method="fp8", precision="fp8", unserved={"tensorrt": _ENGINE, "pytorch": why})


def _awq(settings: Mapping[str, Any]) -> Prequantized:
    if settings.get("bits", settings.get("w_bit")) != 4:
        raise _unknown(f"AWQ of {settings.get('bits')} bits", "4 bits")
    why = "TensorRT-LLM's PyTorch backend has no loader for AutoAWQ's packing"
    size = settings.get("group_size", settings.get("q_group_size"))
    return Prequantized(
        method="awq", precision="int4_awq", group_size=size, unserved={"tensorrt": _ENGINE, "pytorch": why}
    )


_ROWS_OR_BLOCKS = "TensorRT-LLM reads FP8 of compressed-tensors with scales for each row or block only"
_NO_INTEGERS = "TensorRT-LLM reads no integers of compressed-tensors"
_COMPRESSED: Mapping[tuple[str, int, str], tuple[str, str | None]] = MappingProxyType(
    {
        ("float", 8, "channel"): ("fp8_pc_pt", None),
        ("float", 8, "block"): ("fp8_block", None),
        ("float", 8, "tensor"): ("fp8", _ROWS_OR_BLOCKS),
        ("int", 8, "channel"): ("int8_sq", _NO_INTEGERS),
        ("int", 4, "channel"): ("int4_wo", _NO_INTEGERS),
        ("int", 4, "group"): ("int4_awq", _NO_INTEGERS),
    }
)
"""(type, bits, strategy) of the weights -> (what it comes to, why the pytorch runtime cannot load it)."""


def _compressed_tensors(settings: Mapping[str, Any]) -> Prequantized:
    groups = settings.get("config_groups")
    groups = list(groups.values()) if isinstance(groups, Mapping) else []
    if len(groups) != 1:
        raise _unknown(f"{len(groups)} config_groups", "one group of compressed-tensors for all layers")
    weights, inputs = groups[0].get("weights") or {}, groups[0].get("input_activations")
    key = (str(weights.get("type")), int(weights.get("num_bits", 0)), str(weights.get("strategy")))
    if key not in _COMPRESSED or not weights.get("symmetric", True):
        known = ", ".join(f"{bits}-bit {kind} for each {strategy}" for kind, bits, strategy in _COMPRESSED)
        raise _unknown(f"{key[1]}-bit {key[0]} for each {key[2]}", f"symmetric {known}")
    precision, why = _COMPRESSED[key]
    if key == ("int", 8, "channel") and inputs is None:
        precision = "int8_wo"
    if precision == "fp8_pc_pt" and (inputs or {}).get("strategy") != "token":
        why = _ROWS_OR_BLOCKS.replace("for each row or block", "for each token of the input")
    return Prequantized(
        method="compressed-tensors",
        precision=precision,
        group_size=weights.get("group_size"),
        kv_cache=_kv_cache(settings.get("kv_cache_scheme")),
        unserved={"tensorrt": _ENGINE, **({"pytorch": why} if why else {})},
    )


def _unknown(what: str, expected: str) -> SpecError:
    return SpecError(
        f"the checkpoint is quantized already, with {what}, which the kit does not know",
        expected=f"a checkpoint in bfloat16, float16 or float32, or {expected}",
        fix="give the checkpoint that it was made from",
    )


METHODS: Mapping[str, Callable[[Mapping[str, Any]], Prequantized | None]] = MappingProxyType(
    {"modelopt": _modelopt, "fp8": _fp8, "compressed-tensors": _compressed_tensors, "awq": _awq}
)
"""By `quant_method` of `config.json`."""
