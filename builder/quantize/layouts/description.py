"""How each layout says what is quantized: an engine's `quantization`, the unified layout's `hf_quant_config.json`.

Sources: QuantConfig and LayerQuantConfig of TensorRT-LLM 1.3.0rc3, which refuse keys that they do not know; the exports
of NVIDIA ModelOpt 0.37.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from builder.families import Family
from builder.families.base import Module
from builder.model_config import ModelConfig
from builder.quantize.formats import Format
from builder.quantize.recipe import Recipe
from builder.quantize.schemes import MIXED, Layout, LayoutFacts
from trtllm_kit import __version__
from trtllm_kit.errors import SpecError

PRODUCER = {"name": "trtllm-kit", "version": __version__}
_KV_ALGO = {"none": None, "fp8": "FP8", "int8": "INT8", "nvfp4": "NVFP4"}
_FLOAT8: Mapping[str, Any] = {"dynamic": False, "num_bits": 8, "type": "float"}
_FLOAT4: Mapping[str, Any] = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
_CONFIG_GROUPS = {"FP8": _FLOAT8, "NVFP4": _FLOAT4}  # that ModelOpt spells out in compressed-tensors' words
_MIXED_ALGO = "MIXED_PRECISION"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What one recipe makes of one model, in the words of one layout."""

    family: Family
    config: ModelConfig
    recipe: Recipe
    layout: Layout
    stages: int = 1  # of the pipeline; engines number the layers of each from 0

    @property
    def quant_algo(self) -> str | None:
        """Upstream's name for the whole checkpoint."""
        if self.recipe.precision == MIXED:
            return _MIXED_ALGO
        return self.recipe.schemes()[0].layouts[self.layout].quant_algo

    @property
    def kv_cache_quant_algo(self) -> str | None:
        return _KV_ALGO[self.recipe.kv_cache]

    def check(self) -> None:
        """SpecError for a recipe that these words cannot say."""
        self._named()

    def trtllm(self) -> dict[str, Any]:
        """`quantization` of an engine's `config.json`, every key of upstream's class."""
        return {
            "quant_algo": self.quant_algo,
            "kv_cache_quant_algo": self.kv_cache_quant_algo,
            "group_size": 128,
            "smoothquant_val": self.recipe.smoothquant_alpha,
            "clamp_val": None,
            "use_meta_recipe": False,
            "has_zero_point": False,
            "pre_quant_scale": False,
            **self._groups(),
            "exclude_modules": self._excluded(),
        }

    def hf(self) -> dict[str, Any] | None:
        """`hf_quant_config.json`; None for what is not quantized at all."""
        if self.quant_algo is None and self.kv_cache_quant_algo is None:
            return None
        layers = self.by_layer()
        return {
            "producer": PRODUCER,
            "quantization": {
                "quant_algo": self.quant_algo,
                "kv_cache_quant_algo": self.kv_cache_quant_algo,
                **self._groups(),
                "exclude_modules": self._excluded() or [],
                **({} if layers is None else {"quantized_layers": layers["quantized_layers"]}),
            },
        }

    def hf_flat(self) -> dict[str, Any] | None:
        """The same as `quantization_config` of `config.json`, in the keys that ModelOpt has there."""
        nested = self.hf()
        if nested is None:
            return None
        flat = {key: value for key, value in nested["quantization"].items() if key == "quantized_layers"}
        if self.quant_algo in _CONFIG_GROUPS:
            numbers = dict(_CONFIG_GROUPS[self.quant_algo])
            group = {"input_activations": numbers, "weights": dict(numbers), "targets": ["Linear"]}
            flat["config_groups"] = {"group_0": group}
        if self.kv_cache_quant_algo is not None:
            fp8 = self.kv_cache_quant_algo == "FP8"
            flat["kv_cache_scheme"] = dict(_FLOAT8) if fp8 else self.kv_cache_quant_algo
        if self.quant_algo is not None:
            flat["quant_algo"] = self.quant_algo
        return {
            **flat,
            "ignore": nested["quantization"]["exclude_modules"],
            "producer": PRODUCER,
            "quant_method": "modelopt",
        }

    def by_layer(self) -> dict[str, Any] | None:
        """`quant_cfg.json` of a checkpoint whose layers differ; None for one where they do not."""
        if self.recipe.precision != MIXED:
            return None
        layers = {
            name: {"quant_algo": facts.quant_algo, **group_keys(self.recipe.format_of(module.name, self.layout))}
            for name, module in self._named().items()
            if (facts := self._facts(module)) is not None
        }
        return {
            "quant_algo": _MIXED_ALGO,
            "kv_cache_quant_algo": self.kv_cache_quant_algo,
            "quantized_layers": layers,
        }

    def _groups(self) -> dict[str, Any]:
        if self.recipe.precision == MIXED:
            return {}
        return group_keys(replace(self.recipe, exclude=()).format_of("any", self.layout))

    def _excluded(self) -> list[str] | None:
        """What stays in half precision. None leaves upstream's own list in force, which a list would replace."""
        lists = (row.layouts[self.layout].exclude_modules for row in self.recipe.schemes())
        default = next((names for names in lists if names is not None), None)
        if default is None:
            return None
        return [*default, *(name for name, module in self._named().items() if self._facts(module) is None)]

    def _facts(self, module: Module) -> LayoutFacts | None:
        """How a linear is quantized; None where it is not."""
        facts = self.recipe.facts_of(module.name, self.layout) if module.linear.quantized else None
        return None if facts is None or facts.quant_algo is None else facts

    def _named(self) -> dict[str, Module]:
        """One module for each name that the layout has for linears; SpecError where two of a name differ."""
        per_stage = self.config.num_hidden_layers // self.stages
        found: dict[str, Module] = {}
        for layer in range(self.config.num_hidden_layers):
            for module in self.family.modules(self.config, layer):
                name = module.name if self.layout == "hf" else _trtllm_name(module, layer % per_stage)
                same = found.setdefault(name, module)
                if self.recipe.scheme_of(same.name) != self.recipe.scheme_of(module.name):
                    raise self._ambiguous(name, same, module)
        return found

    def _ambiguous(self, name: str, one: Module, other: Module) -> SpecError:
        several = self.stages > 1
        return SpecError(
            f"{one.name} and {other.name} are to be quantized in different ways, and engines call both {name}",
            expected=f"the same layers excluded in each of the {self.stages} pipeline stages"
            if several
            else "one scheme for linears that are fused",
            fix="set target.pp_size to 1, or exclude both" if several else "exclude all of them or none",
        )


def group_keys(found: Format) -> dict[str, Any]:
    """What upstream wants to know of formats that scale groups of features."""
    scale = found.parts.get("weight_scale")
    if scale is None or scale.columns is None:
        return {}
    if found.activation == "nvfp4" or scale.rows != 1:
        return {"group_size": scale.columns}
    return {"group_size": scale.columns, "has_zero_point": False, "pre_quant_scale": True}


def _trtllm_name(module: Module, layer: int) -> str:
    """TensorRT-LLM's name of a linear. All experts of a layer are one module there."""
    name = f"transformer.layers.{layer}.{module.linear.trtllm}"
    return name if module.expert is None else name.rpartition(".")[0]
