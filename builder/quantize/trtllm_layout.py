"""TensorRT-LLM's checkpoint layout: `config.json` and one `rank{r}.safetensors` for each rank, read by trtllm-build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.checkpoint import Checkpoint
from builder.families import Family
from builder.model_config import ModelConfig
from builder.quantize.hf_layout import PRODUCER
from builder.quantize.parallel import Place, Ranks, all_places
from builder.quantize.raw import NUMPY_DTYPE, RawTensor
from builder.quantize.safetensors_writer import Entries, SafetensorsWriter
from builder.quantize.schemes import LayoutFacts
from trtllm_kit.files import pretty_json


class TrtllmLayout:
    """Slices and fuses each tensor into the files of the ranks that hold it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        family: Family,
        entries: Entries,
        facts: LayoutFacts,
        *,
        dtype: str,
        ranks: Ranks,
        out: Path,
    ) -> None:
        self._out = out
        self._config = trtllm_config(checkpoint.config, family, facts, dtype=dtype, ranks=ranks)
        self._places = all_places(family, checkpoint.config, ranks)
        held = _rank_entries(self._places, entries, ranks)
        self._writers = [SafetensorsWriter(out / f"rank{rank}.safetensors", held[rank]) for rank in range(len(held))]

    def write(self, name: str, raw: RawTensor) -> None:
        import numpy as np

        for place in self._places[name]:
            rows = raw.array[place.rows]
            part = rows if rows.ndim == 1 else rows[:, place.columns]
            self._writers[place.rank].write(place.name, RawTensor(raw.dtype, part), at_row=place.at_row)
            padding = _rows(place, raw.array.shape) - len(part)
            if padding:
                zeros = np.zeros((padding, *part.shape[1:]), dtype=NUMPY_DTYPE[raw.dtype])
                self._writers[place.rank].write(
                    place.name, RawTensor(raw.dtype, zeros), at_row=place.at_row + len(part)
                )

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
        (self._out / "config.json").write_text(pretty_json(self._config), encoding="utf-8")

    def abandon(self) -> None:
        for writer in self._writers:
            writer.abandon()


def trtllm_config(
    config: ModelConfig, family: Family, facts: LayoutFacts, *, dtype: str, ranks: Ranks
) -> dict[str, Any]:
    """Upstream's `PretrainedConfig` with the keys of the family's own class."""
    return {
        "producer": PRODUCER,
        "architecture": config.architecture,
        "dtype": dtype,
        "logits_dtype": "float32",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_size": config.head_size,
        "hidden_act": config.hidden_act,
        "norm_epsilon": config.rms_norm_eps,
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": config.max_position_embeddings,
        "rotary_base": config.rope.theta,
        # Upstream reads `type` in some places and `rope_type` in others.
        "rotary_scaling": {**config.rope.scaling, "type": config.rope.kind} if config.rope.scaling else None,
        "use_parallel_embedding": ranks.parallel_embedding,
        "embedding_sharding_dim": 0,
        "tie_word_embeddings": config.tie_word_embeddings,
        "mapping": {"world_size": ranks.world_size, "tp_size": ranks.tp_size, "pp_size": ranks.pp_size},
        "quantization": {
            "quant_algo": facts.quant_algo,
            "kv_cache_quant_algo": None,
            "group_size": 128,
            "smoothquant_val": 0.5,
            "clamp_val": None,
            "use_meta_recipe": False,
            "has_zero_point": False,
            "pre_quant_scale": False,
            "exclude_modules": None if facts.exclude_modules is None else list(facts.exclude_modules),
        },
        **family.trtllm_extras(config),
    }


def _rank_entries(places: Mapping[str, tuple[Place, ...]], entries: Entries, ranks: Ranks) -> list[dict[str, Any]]:
    """Dtype and shape of what each rank's file holds; fused parts add up."""
    held: list[dict[str, Any]] = [{} for _ in range(ranks.world_size)]
    for name, found in places.items():
        dtype, shape = entries[name]
        for place in found:
            rest = tuple(len(range(*place.columns.indices(size))) for size in shape[1:])
            known = held[place.rank].get(place.name)
            rows = _rows(place, shape) + (known[1][0] if known else 0)
            held[place.rank][place.name] = (dtype, (rows, *rest))
    return held


def _rows(place: Place, shape: tuple[int, ...]) -> int:
    """Rows that a place takes, padding included."""
    return shape[0] if place.rows.stop is None else place.rows.stop - place.rows.start
