"""TensorRT-LLM's checkpoint layout: the slices of all ranks put together, what they fuse and stack taken apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.checkpoint import TensorEntry
from builder.families import config_of
from builder.quantize.formats import PLAIN, Format, Role
from builder.quantize.layouts.base import VECTOR, Entry
from builder.quantize.layouts.entries import kv_entries, part_entries
from builder.quantize.layouts.parallel import Place, Ranks, all_places
from builder.quantize.layouts.slots import FILE_ROLES, Slot, slots_of
from builder.quantize.raw import NUMPY_DTYPE, SAFETENSORS_DTYPE, RawTensor, TensorSource, to_float32
from builder.quantize.reader.base import CheckpointReader, unknown_format
from builder.quantize.reader.recognise import Found, recognise
from builder.safetensors_index import read_header
from trtllm_kit.errors import IntegrityError, SpecError


class TrtllmReader(CheckpointReader):
    layout = "trtllm"

    def __init__(self, folder: Path, raw: Mapping[str, Any]) -> None:
        said = {**(raw.get("quantization") or {}), "producer": raw.get("producer")}
        super().__init__(folder, config_of(_hf_words(raw)), said)
        self.ranks = _ranks(raw)
        self.tensors = [_tensors(folder / f"rank{rank}.safetensors") for rank in range(self.ranks.world_size)]
        self._sources = [TensorSource(tensors) for tensors in self.tensors]
        self._places = all_places(self.family, self.config, self.ranks)
        self._rows = _fused_rows(self._places)
        self._half = SAFETENSORS_DTYPE[self.config.dtype]
        self._kv = kv_entries(self.family, self.config)

    def format(self, module: str) -> Format:
        place, (_, columns) = self._places[f"{module}.weight"][0], self.shapes[f"{module}.weight"]
        found = _found(self.tensors[place.rank], place)
        known = recognise(self._rows[place.name], len(range(*place.columns.indices(columns))), found)
        if known is None:
            raise unknown_format(self.folder, module, found)
        return known

    def part(self, module: str, role: Role) -> RawTensor:
        shape = self.shapes[f"{module}.weight"]
        name = f"{module}.{role}"
        return self._assemble(name, part_entries(module, self.format(module), shape, self._half)[name])

    def stores(self, name: str) -> bool:
        entry = self._kv[name]
        return all(slot.name in self.tensors[slot.rank] for slot in slots_of(name, entry, self._places[entry.weight]))

    def raw(self, name: str) -> RawTensor:
        if name in self._kv:
            return self._assemble(name, self._kv[name])
        part = VECTOR if len(self.shapes[name]) == 1 else PLAIN.parts["weight"]
        return self._assemble(name, Entry(dtype=self._half, shape=self.shapes[name], part=part, weight=name))

    def _assemble(self, name: str, entry: Entry) -> RawTensor:
        """An entry from all its slots; a view of the file where it is whole there."""
        import numpy as np

        slots = [slot for slot in slots_of(name, entry, self._places[entry.weight]) if self._counts(slot)]
        pieces = [self._piece(slot) for slot in (slots if entry.shape else slots[:1])]  # the same number on all ranks
        dtype, offset = pieces[0].dtype, slots[0].offset
        if len(pieces) == 1 and pieces[0].array.size == math.prod(entry.shape):
            made = RawTensor(dtype, pieces[0].array.reshape(entry.shape))
        else:
            made = RawTensor(dtype, np.empty(entry.shape, dtype=NUMPY_DTYPE[dtype]))
            for slot, piece in zip(slots, pieces, strict=True):
                target = made.array[slot.cut]
                target[...] = piece.array[: len(target)]
        if offset:
            return RawTensor("F32", (to_float32(made) - np.float32(offset)).view(np.uint32))
        return RawTensor("U8", made.array.view(np.uint8)) if entry.dtype == "U8" else made

    def _counts(self, slot: Slot) -> bool:
        """A tied output layer is the embedding again, and some leave it out."""
        return slot.name != "lm_head.weight" or not self.config.tie_word_embeddings

    def _piece(self, slot: Slot) -> RawTensor:
        if slot.name not in self.tensors[slot.rank]:
            raise self._broken(slot, "is missing")
        stored = self._sources[slot.rank].read(slot.name)
        block = stored.array if slot.expert is None else stored.array[slot.expert, ...]
        rows = block if slot.shared is not None else block[slot.at_row : slot.at_row + slot.shape[0]]
        if rows.shape != slot.shape and (rows.size, math.prod(slot.shape)) != (1, 1):
            raise self._broken(slot, f"has the shape {list(stored.array.shape)}")
        return RawTensor(stored.dtype, rows)

    def _broken(self, slot: Slot, what: str) -> IntegrityError:
        return IntegrityError(
            f"{slot.name} {what} in {self.folder / f'rank{slot.rank}.safetensors'}",
            expected="what config.json says",
            fix="quantize the checkpoint again",
        )


def _tensors(file: Path) -> dict[str, TensorEntry]:
    if not file.is_file():
        raise SpecError(f"{file} is missing", expected="a file for each rank of config.json's mapping", fix="fetch it")
    return read_header(file)


def _fused_rows(places: Mapping[str, tuple[Place, ...]]) -> dict[str, int]:
    """Rows of each linear of TensorRT-LLM on one rank, by the name of its weight."""
    rows: dict[str, int] = {}
    for place in (place for found in places.values() for place in found if place.rows.stop is not None):
        rows[place.name] = max(rows.get(place.name, 0), place.at_row + place.rows.stop - place.rows.start)
    return rows


def _found(tensors: Mapping[str, TensorEntry], place: Place) -> dict[Role, Found]:
    """Dtype and shape of the tensors of one fused linear, of one expert where they are stacked."""
    linear, found = place.name.removesuffix("weight"), dict[Role, Found]()
    for suffix, role in FILE_ROLES.items():
        entry = tensors.get(linear + suffix)
        if entry is not None:
            stacked = place.expert is not None and role != "input_scale"
            found[role] = (entry.dtype, entry.shape[1:] if stacked else entry.shape)
    return found


def _ranks(raw: Mapping[str, Any]) -> Ranks:
    mapping = raw.get("mapping") or {}
    return Ranks(
        tp_size=mapping.get("tp_size", 1),
        pp_size=mapping.get("pp_size", 1),
        parallel_embedding=bool(raw.get("use_parallel_embedding")),
    )


def _hf_words(raw: Mapping[str, Any]) -> dict[str, Any]:
    """TensorRT-LLM's config in Hugging Face's words, as far as shapes depend on it."""
    same = (
        "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "mlp_bias",
    )  # fmt: skip
    experts = raw.get("moe") or {}
    return {
        **{key: raw[key] for key in same if key in raw},
        "architectures": [raw["architecture"]],
        "torch_dtype": raw.get("dtype"),
        "head_dim": raw.get("head_size"),
        "rms_norm_eps": raw.get("norm_epsilon"),
        "rope_theta": raw.get("rotary_base"),
        "rope_scaling": raw.get("rotary_scaling"),
        "attention_bias": raw.get("attn_bias"),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
        "num_local_experts": experts.get("num_experts"),
        "num_experts_per_tok": experts.get("top_k"),
        "norm_topk_prob": experts.get("normalization_mode") == 1,
    }
