"""The model families that the kit builds, by their architecture in `config.json`. A new one is one file and one row."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from builder.families import gemma2, gemma3, llama, mistral, mixtral, phi3, qwen2, qwen3, qwen3_moe
from builder.families.base import Family, Linear, LinearGroup, Module, Norm, Slice
from builder.model_config import ModelConfig
from trtllm_kit.errors import SpecError

__all__ = ["FAMILIES", "Family", "Linear", "LinearGroup", "Module", "Norm", "Slice", "config_of", "family_of"]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        module.FAMILY.architecture: module.FAMILY
        for module in (llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma2, gemma3, phi3)
    }
)


def family_of(architecture: str) -> Family:
    """The family of an architecture; SpecError that lists the known ones and the nearest."""
    family = FAMILIES.get(architecture)
    if family is None:
        near = difflib.get_close_matches(architecture, FAMILIES, n=1)
        raise SpecError(
            f"the architecture '{architecture}' is unknown to the kit",
            expected="one of " + ", ".join(FAMILIES),
            fix=(f"the nearest is {near[0]}; " if near else "") + "choose a checkpoint of one of these families",
        )
    return family


def config_of(raw: Any) -> ModelConfig:
    """The shape that a parsed `config.json` describes. SpecError for an unknown architecture or an impossible value."""
    if not isinstance(raw, Mapping):
        raise SpecError("config.json holds no keys", expected="a Hugging Face model config", fix="fetch it again")
    names = raw.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise SpecError(
            f"config.json: 'architectures' is {names!r}",
            expected="a list with one name, such as " + next(iter(FAMILIES)),
            fix="check that this is the folder of a causal language model",
        )
    return family_of(names[0]).read_config(raw)
