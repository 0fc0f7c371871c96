"""TensorRT-LLM's checkpoint layout: `config.json` and one `rank{r}.safetensors` for each rank, read by trtllm-build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builder.quantize.algorithms.copy import convert
from builder.quantize.layouts.base import Entries
from builder.quantize.layouts.description import PRODUCER, Description
from builder.quantize.layouts.ledger import Ledger
from builder.quantize.layouts.parallel import Ranks, all_places
from builder.quantize.layouts.safetensors_writer import SafetensorsWriter
from builder.quantize.layouts.slots import Slot, first_element, rank_tensors, slots_of
from builder.quantize.raw import NUMPY_DTYPE, SAFETENSORS_DTYPE, RawTensor, to_float32
from trtllm_kit.files import pretty_json


class TrtllmWriter:
    """Slices, fuses and stacks each tensor into the files of the ranks that hold it."""

    def __init__(
        self,
        entries: Entries,
        description: Description,
        *,
        dtype: str,
        ranks: Ranks,
        out: Path,
        resume: bool = False,
    ) -> None:
        self.entries, self._out = entries, out
        self._config = trtllm_config(description, dtype=dtype, ranks=ranks)
        self._layers = description.by_layer()
        self._places = all_places(description.family, description.config, ranks)
        slots = (slot for name in entries for slot in self._slots(name))
        self._tensors = rank_tensors(slots, ranks.world_size, description.config.num_experts)
        self._ledger = Ledger(out, entries, resume=resume)
        self._writers = [
            SafetensorsWriter(out / f"rank{rank}.safetensors", tensors, resume=resume)
            for rank, tensors in enumerate(self._tensors)
        ]
        self.written = self._ledger.flushed
        self._filled = {_key(slot) for name in self.written for slot in self._slots(name) if slot.shared is not None}

    def write(self, name: str, raw: RawTensor) -> None:
        self._ledger.admit(name, raw)
        for slot in self._slots(name):
            part = _fit(raw, slot)
            if slot.shared is not None:
                part = self._join(name, slot, part) if _key(slot) in self._filled else part
                self._filled.add(_key(slot))
            at = first_element(slot, self._tensors[slot.rank][slot.name][1])
            self._writers[slot.rank].write(slot.name, part, at_element=at)

    def flush(self) -> None:
        self._ledger.flush(self._writers)

    def close(self) -> None:
        self._ledger.close()
        for writer in self._writers:
            writer.close()
        (self._out / "config.json").write_text(pretty_json(self._config), encoding="utf-8")
        if self._layers is not None:
            (self._out / "quant_cfg.json").write_text(pretty_json(self._layers), encoding="utf-8")

    def abandon(self) -> None:
        for writer in self._writers:
            writer.abandon()

    def _slots(self, name: str) -> Iterator[Slot]:
        entry = self.entries[name]
        return slots_of(name, entry, self._places[entry.weight])

    def _join(self, name: str, slot: Slot, part: RawTensor) -> RawTensor:
        """What a scale that is there already becomes with `part`."""
        import numpy as np

        at = first_element(slot, self._tensors[slot.rank][slot.name][1])
        there = self._writers[slot.rank].read(slot.name, part.array.size, at_element=at)
        if slot.shared == "equal" and there != np.ascontiguousarray(part.array).tobytes():
            raise RuntimeError(f"{name} differs from what is fused with it in {slot.name}")
        known = np.frombuffer(there, dtype=part.array.dtype).reshape(part.array.shape)
        return RawTensor(part.dtype, np.maximum(known, part.array))  # bits of positive floats are ordered as they are


def _key(slot: Slot) -> tuple[int, str, int | None]:
    """What scales that share a slot have in common."""
    return slot.rank, slot.name, slot.expert


def trtllm_config(description: Description, *, dtype: str, ranks: Ranks) -> dict[str, Any]:
    """Upstream's `PretrainedConfig` with the keys of the family's own class."""
    config, family = description.config, description.family
    mapping = {"world_size": ranks.world_size, "tp_size": ranks.tp_size, "pp_size": ranks.pp_size}
    if config.num_experts:
        mapping |= {"moe_tp_size": ranks.tp_size, "moe_ep_size": 1}
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
        "use_parallel_embedding": ranks.parallel_embedding or (family.parallel_embedding and ranks.tp_size > 1),
        "embedding_sharding_dim": 0,
        "tie_word_embeddings": config.tie_word_embeddings,
        "mapping": mapping,
        "quantization": description.trtllm(),
        **family.trtllm_extras(config),
    }


def _fit(raw: RawTensor, slot: Slot) -> RawTensor:
    """The slot's piece of a tensor, in the dtype and with the padding that its file has."""
    import numpy as np

    piece = raw.array[slot.cut] if slot.cut else raw.array.reshape(slot.shape)
    cut = RawTensor(raw.dtype, piece)
    if slot.offset:
        cut = _add(cut, slot.offset)
    if slot.dtype != cut.dtype:
        bits = to_float32(cut).view(np.uint32) if slot.dtype == "F32" else piece.view(NUMPY_DTYPE[slot.dtype])
        cut = RawTensor(slot.dtype, bits)
    if cut.array.shape == slot.shape:
        return cut
    padded = np.zeros(slot.shape, dtype=cut.array.dtype)
    padded[: len(piece)] = cut.array
    return RawTensor(slot.dtype, padded)


def _add(raw: RawTensor, offset: float) -> RawTensor:
    """Rounded once, to the dtype of `raw`."""
    import numpy as np

    dtype = next(name for name, short in SAFETENSORS_DTYPE.items() if short == raw.dtype)
    return convert("a norm", RawTensor("F32", (to_float32(raw) + np.float32(offset)).view(np.uint32)), dtype)
