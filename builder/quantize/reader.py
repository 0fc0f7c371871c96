"""Read a quantized checkpoint back: float32 tensors by Hugging Face name, from either layout, ours or ModelOpt's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from builder.families import config_of, family_of
from builder.model_config import ModelConfig
from builder.quantize.parallel import Place, Ranks, all_places
from builder.quantize.raw import TensorSource, to_float32
from builder.safetensors_index import read_header, read_tensors
from trtllm_kit.errors import IntegrityError, SpecError
from trtllm_kit.files import read_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

_READABLE = (None, "W8A16")
# After the name of a weight: `weight_scale`, `weights_scaling_factor`.
_HF_SCALE, _TRTLLM_SCALE = "_scale", "s_scaling_factor"


class CheckpointReader(Protocol):
    """A quantized checkpoint as plain float32 tensors."""

    config: ModelConfig
    quant_algo: str | None

    def names(self) -> list[str]:
        """Hugging Face names of all tensors."""

    def tensor(self, name: str) -> Floats:
        """The effective values of one tensor: codes times scales, slices of ranks put together."""


def open_checkpoint(folder: Path) -> CheckpointReader:
    """A reader for the layout that `folder` holds; SpecError for a quantization that it cannot undo."""
    raw = read_json(folder / "config.json", "the checkpoint's config")
    return _TrtllmReader(folder, raw) if "architecture" in raw else _HfReader(folder, raw)


class _HfReader:
    def __init__(self, folder: Path, raw: Mapping[str, Any]) -> None:
        self.config = config_of(raw)
        self.quant_algo = _readable(folder, (raw.get("quantization_config") or {}).get("quant_algo"))
        self._tensors = read_tensors(folder)
        self._source = TensorSource(self._tensors)

    def names(self) -> list[str]:
        return list(family_of(self.config.architecture).shapes(self.config))

    def tensor(self, name: str) -> Floats:
        return _effective(self._source, name, _HF_SCALE, self._tensors)


class _TrtllmReader:
    def __init__(self, folder: Path, raw: Mapping[str, Any]) -> None:
        self.config = config_of(_hf_words(raw))
        self.quant_algo = _readable(folder, raw["quantization"]["quant_algo"])
        mapping = raw["mapping"]
        ranks = Ranks(
            tp_size=mapping["tp_size"],
            pp_size=mapping["pp_size"],
            parallel_embedding=bool(raw.get("use_parallel_embedding")),
        )
        family = family_of(self.config.architecture)
        self._shapes = family.shapes(self.config)
        self._places = all_places(family, self.config, ranks)
        self._tensors = [read_header(folder / f"rank{rank}.safetensors") for rank in range(ranks.world_size)]
        self._sources = [TensorSource(tensors) for tensors in self._tensors]

    def names(self) -> list[str]:
        return list(self._shapes)

    def tensor(self, name: str) -> Floats:
        import numpy as np

        shape = self._shapes[name]
        whole = np.full(shape, np.nan, dtype=np.float32)
        for place in self._places[name]:
            if place.name == "lm_head.weight" and self.config.tie_word_embeddings:
                continue  # the embedding again
            target = whole[place.rows] if whole.ndim == 1 else whole[place.rows, place.columns]
            target[...] = self._part(place)[place.at_row : place.at_row + len(target)]
        if np.isnan(whole).any():
            raise IntegrityError(f"{name} is not whole in the ranks' files", expected="all slices of it")
        return whole

    def _part(self, place: Place) -> Floats:
        return _effective(self._sources[place.rank], place.name, _TRTLLM_SCALE, self._tensors[place.rank])


def _effective(source: TensorSource, name: str, scale_suffix: str, known: Mapping[str, Any]) -> Floats:
    values = to_float32(source.read(name))
    if name + scale_suffix not in known:
        return values
    return values * to_float32(source.read(name + scale_suffix))[:, None]


def _readable(folder: Path, quant_algo: str | None) -> str | None:
    if quant_algo not in _READABLE:
        raise SpecError(
            f"{folder} is quantized with {quant_algo}, which cannot be read back",
            expected="one of " + ", ".join(str(name) for name in _READABLE),
            fix="read a checkpoint of one of these",
        )
    return quant_algo


def _hf_words(raw: Mapping[str, Any]) -> dict[str, Any]:
    """TensorRT-LLM's config in Hugging Face's words, as far as shapes depend on it."""
    same = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "hidden_act", "max_position_embeddings", "mlp_bias",
    )  # fmt: skip
    return {
        **{key: raw[key] for key in same if key in raw},
        "architectures": [raw["architecture"]],
        "torch_dtype": raw["dtype"],
        "head_dim": raw["head_size"],
        "rms_norm_eps": raw["norm_epsilon"],
        "rope_theta": raw.get("rotary_base"),
        "rope_scaling": raw.get("rotary_scaling"),
        "attention_bias": raw.get("attn_bias"),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
    }
